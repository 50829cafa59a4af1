// SPDX-License-Identifier: GPL-3.0-only
//! The files: sled in a directory of its own, so that nothing which happens to the history happens to the policy.
//!
//! Sled's files do not shrink. So once too much of them is unused, what is kept is copied to new ones.

use std::fs;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::FlowsError;
use crate::damage::{beside, is_damage};
use crate::patience;
use crate::space::free;

/// Bytes of cache sled may keep.
const CACHE: u64 = 16 << 20;
/// Bytes that are copied by one write.
const COPY: usize = 1 << 20;

/// The open files.
pub struct Disk {
    path: PathBuf,
    db: Option<sled::Db>,
}

impl Disk {
    /// Opens the files, making them if there are none. Damaged ones are renamed `PATH.damaged`, in place of earlier such.
    pub fn open(path: &Path) -> Result<Disk, FlowsError> {
        finish_compaction(path).map_err(|source| FlowsError::Files {
            path: path.to_owned(),
            source,
        })?;
        let db = match open(path) {
            Err(Failure::Damaged(why)) => {
                set_aside(path, &why)?;
                open(path)
            }
            result => result,
        };
        let db = db.map_err(|failure| match failure {
            Failure::Damaged(why) => FlowsError::Damaged(why),
            Failure::Sled(source) => FlowsError::Open {
                path: path.to_owned(),
                source,
            },
        })?;
        Ok(Disk {
            path: path.to_owned(),
            db: Some(db),
        })
    }

    fn db(&self) -> Result<&sled::Db, FlowsError> {
        self.db
            .as_ref()
            .ok_or_else(|| FlowsError::Damaged("it is closed".into()))
    }

    /// Reads a record.
    pub fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, FlowsError> {
        Ok(self.db()?.get(key)?)
    }

    /// The records of a range of keys, in their order.
    pub fn range(
        &self,
        keys: Range<Vec<u8>>,
    ) -> Result<
        impl DoubleEndedIterator<Item = Result<(sled::IVec, sled::IVec), FlowsError>> + use<>,
        FlowsError,
    > {
        Ok(self.db()?.range(keys).map(|item| Ok(item?)))
    }

    /// Makes all writes or none, and returns when they are on the disk.
    pub fn write(&self, batch: sled::Batch) -> Result<(), FlowsError> {
        let db = self.db()?;
        db.apply_batch(batch)?;
        db.flush()?;
        Ok(())
    }

    /// Bytes of the files.
    pub fn size(&self) -> u64 {
        self.db().map_or(0, |db| db.size_on_disk().unwrap_or(0))
    }

    /// Bytes that are free beside them.
    pub fn room(&self) -> u64 {
        free(&self.path).unwrap_or(u64::MAX)
    }

    /// Copies what is kept to new files, and does away with the old ones.
    pub fn compact(&mut self) -> Result<(), FlowsError> {
        let (new, old) = (beside(&self.path, "new"), beside(&self.path, "old"));
        let files = |path: &Path| {
            let path = path.to_owned();
            move |source| FlowsError::Files { path, source }
        };
        remove(&new).map_err(files(&new))?;
        let copied = self.copy_to(&new);
        if let Err(e) = copied {
            let _ = remove(&new);
            return Err(e);
        }
        // Its files are locked as long as they are open.
        self.db = None;
        remove(&old).map_err(files(&old))?;
        fs::rename(&self.path, &old).map_err(files(&self.path))?;
        fs::rename(&new, &self.path).map_err(files(&new))?;
        *self = Disk::open(&self.path)?;
        Ok(())
    }

    fn copy_to(&self, path: &Path) -> Result<(), FlowsError> {
        let new = Disk::open(path)?;
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for item in self.db()?.iter() {
            let (key, value) = item?;
            bytes += key.len() + value.len();
            batch.insert(key, value);
            if bytes >= COPY {
                new.write(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        new.write(batch)
    }
}

enum Failure {
    Damaged(String),
    Sled(sled::Error),
}

fn open(path: &Path) -> Result<sled::Db, Failure> {
    let open = || {
        sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .mode(sled::Mode::LowSpace)
            // Whoever writes says when it is to be on the disk.
            .flush_every_ms(None)
            .open()
    };
    // Of damaged files sled's reader believes a lot; what it then asserts must not end the daemon.
    match catch_unwind(AssertUnwindSafe(|| patience::open(open))) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(e)) if is_damage(&e) => Err(Failure::Damaged(e.to_string())),
        Ok(Err(e)) => Err(Failure::Sled(e)),
        Err(_) => Err(Failure::Damaged("sled panicked over it".into())),
    }
}

fn set_aside(path: &Path, why: &str) -> Result<(), FlowsError> {
    let aside = beside(path, "damaged");
    log::error!(
        "the flow history {} is damaged ({why}); it begins anew, and what there was is now {}",
        path.display(),
        aside.display()
    );
    remove(&aside)
        .and_then(|()| fs::rename(path, &aside))
        .map_err(|source| FlowsError::Files { path: aside, source })
}

/// A compaction that was cut short is undone, or done.
fn finish_compaction(path: &Path) -> io::Result<()> {
    let (new, old) = (beside(path, "new"), beside(path, "old"));
    if !path.exists() && old.exists() {
        // Between the two renames: the old files are whole.
        fs::rename(&old, path)?;
    }
    remove(&new)?;
    remove(&old)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
