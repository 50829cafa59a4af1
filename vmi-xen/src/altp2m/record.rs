// SPDX-License-Identifier: GPL-3.0-only
//! The undo record: what is applied to a guest, kept where it outlives us.
//!
//! One small file per domain. It is written before each step that changes the
//! guest, so at whatever instant the owner dies it names at least what must be
//! undone. The owner holds an exclusive `flock` on it, which the kernel lets go
//! when the owner dies: whoever gets the lock next (a guardian, or the daemon
//! started again) is alone in undoing.
//!
//! Written with `pwrite`, not through a mapping: a full disk is then an error
//! and not a SIGBUS, and there is no `unsafe`. A write this small within one
//! page is not torn by a fatal signal, and what was written stays in the page
//! cache after `kill -9`. Keep the directory on a tmpfs such as `/run`: a reboot
//! of the host ends all guests, and must end the records too.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;
use xen_bindings::{DomId, Gfn};

use crate::breakpoint::{MAX_PATCHES, Patch};

const MAGIC: [u8; 8] = *b"xmeshund";
/// 2: patches of the guest's own text.
const VERSION: u32 = 2;
/// Where the patches begin.
const PATCHES_AT: usize = 80;
/// Size of the encoded record in bytes: within one page, see above.
const SIZE: usize = PATCHES_AT + MAX_PATCHES * Patch::SIZE;
const _: () = assert!(SIZE <= xen_bindings::PAGE_SIZE);
/// Shadow pages one guest can have: one bit each in the record.
pub const SHADOW_SLOTS: u32 = u64::BITS;

/// Why an undo record could not be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Another process owns the guest.
    #[error("{}: held by another process, which is attached to the guest", .0.display())]
    Held(PathBuf),
    /// The file could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    File {
        /// The record's file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file is not an undo record of this version.
    #[error(
        "{}: not an undo record that this version understands; make sure that no other version \
         is attached, then delete it", .0.display()
    )]
    Foreign(PathBuf),
}

/// What is, or may be, applied to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// UUID of the domain: its number may have been given to another since.
    pub uuid: [u8; 16],
    /// Anything below may be applied.
    pub dirty: bool,
    /// Pauses that may be held on the domain.
    pub pauses: u32,
    /// The vm_event ring may be enabled, and vCPUs may wait for answers.
    pub monitor: bool,
    /// altp2m may be on, with a view.
    pub altp2m: bool,
    /// First frame of the shadow area; kept while the domain lives, so that
    /// attaching again does not move the guest's highest frame ever higher.
    pub shadow_base: Gfn,
    /// Shadow frames that may be populated, one bit each from the base on.
    pub shadow_slots: u64,
    /// The domain's most pages before they were raised.
    pub max_pages_before: u64,
    /// What they were raised to; zero if they were not.
    pub max_pages_raised: u64,
    /// Places of the guest's own text that may hold an int3 of ours; at most [`MAX_PATCHES`].
    pub patches: Vec<Patch>,
}

impl Applied {
    fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let flags = u32::from(self.dirty) | u32::from(self.monitor) << 1 | u32::from(self.altp2m) << 2;
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.uuid);
        bytes[32..36].copy_from_slice(&self.pauses.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.shadow_base.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.shadow_slots.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.max_pages_before.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.max_pages_raised.to_le_bytes());
        // Fewer than fit the record, so the number is small.
        bytes[72..76].copy_from_slice(&(self.patches.len() as u32).to_le_bytes());
        let room = bytes[PATCHES_AT..].chunks_exact_mut(Patch::SIZE);
        for (patch, room) in self.patches.iter().zip(room) {
            room.copy_from_slice(&patch.encode());
        }
        bytes
    }

    fn decode(bytes: &[u8; SIZE]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        if bytes[0..8] != MAGIC || u32_at(8)? != VERSION {
            return None;
        }
        let flags = u32_at(12)?;
        let patches = bytes[PATCHES_AT..]
            .chunks_exact(Patch::SIZE)
            .take(u32_at(72)? as usize)
            .map(|bytes| Patch::decode(bytes.first_chunk()?))
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            uuid: *bytes.get(16..)?.first_chunk()?,
            dirty: flags & 1 != 0,
            monitor: flags & 2 != 0,
            altp2m: flags & 4 != 0,
            pauses: u32_at(32)?,
            shadow_base: u64_at(40)?,
            shadow_slots: u64_at(48)?,
            max_pages_before: u64_at(56)?,
            max_pages_raised: u64_at(64)?,
            patches,
        })
    }
}

/// The undo record of one domain, owned.
pub struct UndoRecord {
    path: PathBuf,
    domid: DomId,
    file: Flock<File>,
    applied: Applied,
}

impl UndoRecord {
    /// Opens (or makes) the record of `domid` in `dir`, and owns it.
    ///
    /// # Errors
    /// [`RecordError::Held`] where another process owns it.
    pub fn open(dir: &Path, domid: DomId) -> Result<Self, RecordError> {
        Self::acquire(dir, domid, FlockArg::LockExclusiveNonblock)
    }

    /// Like [`Self::open`], but waits until the present owner lets go or dies.
    ///
    /// # Errors
    /// Where the file cannot be used.
    pub fn wait_for(dir: &Path, domid: DomId) -> Result<Self, RecordError> {
        Self::acquire(dir, domid, FlockArg::LockExclusive)
    }

    /// Domains that have a record in `dir`, whoever owns it.
    ///
    /// # Errors
    /// Where the directory cannot be read. One that does not exist has none.
    pub fn domains(dir: &Path) -> Result<Vec<DomId>, RecordError> {
        let failed = |source| file_error(dir, "list", source);
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut domains = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            domains.extend(name.to_str().and_then(|name| name.parse::<DomId>().ok()));
        }
        domains.sort_unstable();
        Ok(domains)
    }

    fn acquire(dir: &Path, domid: DomId, how: FlockArg) -> Result<Self, RecordError> {
        fs::create_dir_all(dir).map_err(|e| file_error(dir, "create", e))?;
        let path = dir.join(domid.to_string());
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|e| file_error(&path, "open", e))?;
            let file = Flock::lock(file, how).map_err(|(_, errno)| match errno {
                nix::errno::Errno::EWOULDBLOCK => RecordError::Held(path.clone()),
                errno => file_error(&path, "lock", errno.into()),
            })?;
            // Its last owner may have deleted the file while we waited for it.
            if !is_same_file(&file, &path)? {
                continue;
            }
            let applied = load(&file, &path)?;
            let record = Self {
                path,
                domid,
                file,
                applied,
            };
            // Takes the file's one block now, so that later writes cannot fail
            // for want of space.
            record.store()?;
            return Ok(record);
        }
    }

    /// The domain it is about.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// Whether something may be applied to the guest that must be undone.
    pub fn needs_undo(&self) -> bool {
        self.applied.dirty
    }

    /// Deletes the file, for a domain that is gone.
    ///
    /// # Errors
    /// Where the file cannot be deleted.
    pub fn delete(self) -> Result<(), RecordError> {
        fs::remove_file(&self.path).map_err(|e| file_error(&self.path, "delete", e))
    }

    pub(crate) fn applied(&self) -> &Applied {
        &self.applied
    }

    /// What the record of `domid` in `dir` says is patched in the guest's own text, whoever owns it: a look without
    /// the lock, so a moment later it may be more or less. Empty where there is no record.
    ///
    /// # Errors
    /// Where the file cannot be read, or is none of this version.
    pub fn patches(dir: &Path, domid: DomId) -> Result<Vec<Patch>, RecordError> {
        let path = dir.join(domid.to_string());
        match File::open(&path) {
            Ok(file) => Ok(load(&file, &path)?.patches),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(file_error(&path, "open", error)),
        }
    }

    /// Changes the record, on file first of all.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Applied)) -> Result<(), RecordError> {
        change(&mut self.applied);
        self.store()
    }

    fn store(&self) -> Result<(), RecordError> {
        self.file
            .write_all_at(&self.applied.encode(), 0)
            .map_err(|e| file_error(&self.path, "write", e))
    }
}

fn file_error(path: &Path, action: &'static str, source: io::Error) -> RecordError {
    RecordError::File {
        path: path.to_owned(),
        action,
        source,
    }
}

fn is_same_file(file: &File, path: &Path) -> Result<bool, RecordError> {
    let ours = file.metadata().map_err(|e| file_error(path, "stat", e))?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(file_error(path, "stat", error)),
    }
}

/// Reads a record; an empty file (just made) holds nothing.
fn load(file: &File, path: &Path) -> Result<Applied, RecordError> {
    let length = file.metadata().map_err(|e| file_error(path, "stat", e))?.len();
    if length == 0 {
        return Ok(Applied::default());
    }
    let mut bytes = [0; SIZE];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(RecordError::Foreign(path.to_owned()));
        }
        Err(e) => return Err(file_error(path, "read", e)),
    }
    Applied::decode(&bytes).ok_or_else(|| RecordError::Foreign(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_there_for_the_next_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut record = UndoRecord::open(dir.path(), 7).expect("fresh");
        assert!(!record.needs_undo());
        record
            .update(|a| {
                a.dirty = true;
                a.pauses = 2;
                a.shadow_slots = 0b101;
                a.patches = vec![Patch::new(7, 8, &[0x90]).expect("in the page"); 3];
            })
            .expect("written");
        let before = record.applied().clone();
        drop(record);
        let record = UndoRecord::open(dir.path(), 7).expect("free again");
        assert!(record.needs_undo());
        assert_eq!(*record.applied(), before);
        assert_eq!(UndoRecord::patches(dir.path(), 7).expect("read"), before.patches);
        assert_eq!(UndoRecord::patches(dir.path(), 8).expect("absent"), []);
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut bytes = Applied::default().encode();
        bytes[8] = 1;
        for length in [PATCHES_AT, SIZE] {
            fs::write(dir.path().join("7"), &bytes[..length]).expect("written");
            assert!(matches!(
                UndoRecord::open(dir.path(), 7),
                Err(RecordError::Foreign(_))
            ));
        }
    }

    #[test]
    fn only_one_owner_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = UndoRecord::open(dir.path(), 7).expect("fresh");
        assert!(matches!(
            UndoRecord::open(dir.path(), 7),
            Err(RecordError::Held(_))
        ));
        UndoRecord::open(dir.path(), 8).expect("another domain");
        drop(first);
        UndoRecord::open(dir.path(), 7).expect("free again");
    }

    #[test]
    fn waiting_for_a_record_that_gets_deleted_yields_a_fresh_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut first = UndoRecord::open(dir.path(), 7).expect("fresh");
        first.update(|a| a.pauses = 9).expect("written");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| UndoRecord::wait_for(dir.path(), 7).expect("in turn"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            first.delete().expect("deleted");
            let second = waiter.join().expect("no panic");
            assert_eq!(second.applied().pauses, 0);
            assert!(dir.path().join("7").exists(), "the fresh file is on its path");
        });
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("7"), b"something else").expect("written");
        assert!(matches!(
            UndoRecord::open(dir.path(), 7),
            Err(RecordError::Foreign(_))
        ));
    }

    #[test]
    fn domains_lists_numbers_only() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["12", "3", "lock"] {
            fs::write(dir.path().join(name), b"").expect("written");
        }
        assert_eq!(UndoRecord::domains(dir.path()).expect("listed"), [3, 12]);
        let absent = dir.path().join("absent");
        assert!(UndoRecord::domains(&absent).expect("none").is_empty());
    }

    proptest! {
        #[test]
        fn encoding_loses_nothing(
            uuid: [u8; 16], flags in 0u8..8, pauses: u32, shadow_base: u64, shadow_slots: u64,
            max_pages_before: u64, max_pages_raised: u64,
            patches in proptest::collection::vec(crate::breakpoint::any_patch(), 0..=MAX_PATCHES),
        ) {
            let applied = Applied {
                uuid, pauses, shadow_base, shadow_slots, max_pages_before, max_pages_raised, patches,
                dirty: flags & 1 != 0,
                monitor: flags & 2 != 0,
                altp2m: flags & 4 != 0,
            };
            prop_assert_eq!(Applied::decode(&applied.encode()), Some(applied.clone()));
        }
    }
}
