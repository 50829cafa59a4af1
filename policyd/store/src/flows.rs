// SPDX-License-Identifier: GPL-3.0-only
//! The history of flows: counts by kind of flow and minute, added up by hour and day, in files of its own.
//!
//! One thread counts and writes ([`FlowStore::add`], [`FlowStore::write`]), any number read. What it cannot write is lost and counted:
//! unlike policy, history is worth no waiting and no room that policy may need. A minute is written once it is over; a crash
//! loses the one that was being counted. What others remember of the past is kept beside it ([`FlowStore::put_note`],
//! [`FlowStore::put_records`]), with the same worth.

mod cells;
mod disk;
mod names;
mod notes;
mod plan;
mod upkeep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use policyd_api::{FlowHistoryStatus, FlowName, FlowTotals};
use serde::{Deserialize, Serialize};

use cells::Cells;
use disk::Disk;
use names::Names;
use plan::{Grain, Kept, MINUTE};

pub use names::MAX_NAMES;
pub use notes::Records;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct FlowConfig {
    /// Bytes that the files may have. The least is 16 MiB.
    pub bytes: u64,
    /// Days that anything is kept.
    pub days: u64,
    /// Bytes that must be free on the disk: with less nothing is written. Above what a change of policy wants.
    pub reserve: u64,
}

/// Seconds for which minutes are kept.
const KEEP_MINUTES: u64 = plan::DAY;
/// Seconds for which hours are kept.
const KEEP_HOURS: u64 = 14 * plan::DAY;

impl Default for FlowConfig {
    fn default() -> FlowConfig {
        FlowConfig {
            bytes: 512 << 20,
            days: 400,
            reserve: 64 << 20,
        }
    }
}

/// What can go wrong with the history.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// Sled could not open its files.
    #[error("cannot open the flow history {}: {source}", path.display())]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Sled's word.
        source: sled::Error,
    },
    /// A directory could not be renamed or removed.
    #[error("the flow history: {}: {source}", path.display())]
    Files {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Sled failed.
    #[error("the flow history: {0}")]
    Sled(#[from] sled::Error),
    /// A record is not what this version writes.
    #[error("the flow history is damaged: {0}; stop policyd and remove its directory to begin anew")]
    Damaged(String),
    /// The disk is nearly full.
    #[error(
        "only {free} bytes are free on its disk, and the flow history leaves {reserve} to others: make room"
    )]
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        reserve: u64,
    },
}

impl From<cells::BadRecord> for FlowsError {
    fn from(e: cells::BadRecord) -> FlowsError {
        FlowsError::Damaged(e.to_string())
    }
}

/// Flows of some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Past {
    /// From when on, seconds since 1970.
    pub since: u64,
    /// Until when.
    pub until: u64,
    /// What was counted.
    pub flows: Vec<(Arc<FlowName>, FlowTotals)>,
}

/// The history. Cheap to clone.
#[derive(Clone)]
pub struct FlowStore(Arc<Shared>);

struct Shared {
    config: FlowConfig,
    disk: RwLock<Disk>,
    open: Mutex<Open>,
    marks: Mutex<Marks>,
    trouble: Mutex<Trouble>,
}

/// What is being counted.
#[derive(Default)]
struct Open {
    names: Names,
    /// When its minute began, seconds since 1970; 0: none yet.
    minute: u64,
    cells: Cells,
}

/// How far minutes were added up, seconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    /// Hours before this are added up.
    hours: u64,
    /// Days before this are.
    days: u64,
    /// The number of the next name.
    next: u32,
}

#[derive(Default)]
struct Trouble {
    unwritten: u64,
    problem: Option<String>,
    /// Bytes to which the last compaction cut what is kept: where that was not enough, the next cuts deeper.
    cut: u64,
}

const MARKS: &[u8] = b"s-marks";
const NAME: u8 = b'n';

impl FlowStore {
    /// Opens the history, making it if it is not there. A damaged one is set aside.
    ///
    /// # Errors
    /// Where its files cannot be opened.
    pub fn open(path: &Path, config: FlowConfig) -> Result<FlowStore, FlowsError> {
        if let Some(parent) = path.parent() {
            // What is wrong with it, opening will tell.
            let _ = std::fs::create_dir_all(parent);
        }
        let disk = Disk::open(path)?;
        let marks: Marks = match disk.get(MARKS)? {
            Some(bytes) => from_json(&bytes)?,
            None => Marks::default(),
        };
        let mut stored = Vec::new();
        for item in disk.range(vec![NAME]..vec![NAME + 1])? {
            let (key, value) = item?;
            let id = key.get(1..5).and_then(|id| <[u8; 4]>::try_from(id).ok());
            let id = id.ok_or_else(|| FlowsError::Damaged("a name without a number".into()))?;
            stored.push((u32::from_be_bytes(id), from_json(&value)?));
        }
        let open = Open {
            names: Names::load(stored.into_iter(), marks.next),
            ..Open::default()
        };
        Ok(FlowStore(Arc::new(Shared {
            config: FlowConfig {
                bytes: config.bytes.max(16 << 20),
                ..config
            },
            disk: RwLock::new(disk),
            open: Mutex::new(open),
            marks: Mutex::new(marks),
            trouble: Mutex::default(),
        })))
    }

    /// Counts flows. `now`: seconds since 1970. A minute that is over is not written here, but by [`FlowStore::write`].
    pub fn add(&self, name: &Arc<FlowName>, totals: FlowTotals) {
        let mut open = lock(&self.0.open);
        if open.minute == 0 {
            let minute = totals.last - totals.last % MINUTE;
            // A clock that went back must not add to hours that are added up.
            open.minute = minute.max(lock(&self.0.marks).hours);
        }
        let id = open.names.number(name);
        open.cells.entry(id).or_default().add(&totals);
    }

    /// Takes a flow back that was counted under a name a moment ago: it is to be counted under another. What was written meanwhile stays.
    pub fn take_back(&self, name: &Arc<FlowName>) {
        let mut open = lock(&self.0.open);
        let id = open.names.number(name);
        if let Some(cell) = open.cells.get_mut(&id) {
            cell.flows = cell.flows.saturating_sub(1);
            if (cell.flows, cell.refused, cell.packets_out, cell.packets_in) == (0, 0, 0, 0) {
                open.cells.remove(&id);
            }
        }
    }

    /// All names that something is counted under.
    pub fn names(&self) -> Vec<Arc<FlowName>> {
        lock(&self.0.open)
            .names
            .iter()
            .map(|(_, name)| Arc::clone(name))
            .collect()
    }

    /// Writes what was counted if its minute is over at `now` (seconds since 1970), or `all` of it; adds up hours and days, and
    /// does away with what is too old or too much. May take a second; readers and counting go on meanwhile.
    ///
    /// # Errors
    /// The minute is lost then, and counted; or it is written, and there is no room made for others.
    pub fn write(&self, now: u64, all: bool) -> Result<(), FlowsError> {
        let written = self.write_minute(now, all);
        if written.is_err() {
            lock(&self.0.trouble).unwritten += 1;
        }
        let result = match written {
            Ok(false) => return Ok(()),
            Ok(true) => self.keep_up(now),
            Err(e) => Err(e),
        };
        lock(&self.0.trouble).problem = result.as_ref().err().map(ToString::to_string);
        result
    }

    /// Flows of a time (seconds since 1970) whose name is wanted, added up.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn past(
        &self,
        since: u64,
        until: u64,
        wanted: impl Fn(&FlowName) -> bool,
    ) -> Result<Past, FlowsError> {
        let parts = self.past_apart(since, until, wanted, |_, _| ((), true))?;
        Ok(parts
            .into_iter()
            .next()
            .map_or_else(Past::default, |(_, past)| past))
    }

    /// The same, where some times are told apart. `time`: what the time from when until when is, and whether all of it is that;
    /// where it is not, smaller buckets are read, as long as they are kept. At least one part is given; all of them are of the same span.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn past_apart<T: Ord>(
        &self,
        since: u64,
        until: u64,
        wanted: impl Fn(&FlowName) -> bool,
        time: impl Fn(u64, u64) -> (T, bool),
    ) -> Result<Vec<(T, Past)>, FlowsError> {
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        let mut parts: BTreeMap<T, Cells> = BTreeMap::new();
        let names = {
            let open = lock(&self.0.open);
            let names: BTreeMap<u32, Arc<FlowName>> = open
                .names
                .iter()
                .filter(|(_, name)| wanted(name))
                .map(|(id, name)| (id, Arc::clone(name)))
                .collect();
            let within = open.minute < until && open.minute.saturating_add(MINUTE) > since;
            let counted = open
                .cells
                .iter()
                .filter(|(id, _)| within && names.contains_key(id));
            let cells: Cells = counted.map(|(id, totals)| (*id, *totals)).collect();
            if !cells.is_empty() {
                let (now, _) = time(open.minute, open.minute.saturating_add(MINUTE));
                parts.insert(now, cells);
            }
            names
        };
        let mut is_wanted = vec![false; names.last_key_value().map_or(0, |(id, _)| *id as usize + 1)];
        for id in names.keys() {
            is_wanted[*id as usize] = true;
        }
        let runs = plan::runs(&self.kept(&disk)?, since, until, |from, to| time(from, to).1);
        for (grain, from, to) in &runs {
            let mut bucket: Option<(u64, &mut Cells)> = None;
            for item in disk.range(key(*grain, *from)..key(*grain, *to))? {
                let (key, value) = item?;
                let start = start_of(&key, *grain);
                let wanted = |id: u32| is_wanted.get(id as usize).copied().unwrap_or(false);
                let cells = match bucket.take() {
                    Some((same, cells)) if same == start => cells,
                    _ => {
                        let (of, _) = time(start, start.saturating_add(grain.seconds()));
                        parts.entry(of).or_default()
                    }
                };
                cells::decode(&value, start, wanted, cells)?;
                bucket = Some((start, cells));
            }
        }
        if parts.is_empty() {
            parts.insert(time(since, until).0, Cells::new());
        }
        let part = |(of, cells): (T, Cells)| {
            let flows = cells
                .into_iter()
                .filter_map(|(id, totals)| Some((Arc::clone(names.get(&id)?), totals)));
            let past = Past {
                since: runs.first().map_or(since, |(_, from, _)| *from),
                until: runs.last().map_or(until, |(_, _, to)| (*to).max(until)),
                flows: flows.collect(),
            };
            (of, past)
        };
        Ok(parts.into_iter().map(part).collect())
    }

    /// How it is. What was lost on the way here is not known here.
    pub fn status(&self) -> FlowHistoryStatus {
        let bytes = self.0.disk.read().unwrap_or_else(PoisonError::into_inner).size();
        let names = lock(&self.0.open).names.len();
        let trouble = lock(&self.0.trouble);
        FlowHistoryStatus {
            kept: true,
            bytes,
            limit: self.0.config.bytes,
            names,
            lost: 0,
            unwritten: trouble.unwritten,
            problem: trouble.problem.clone(),
        }
    }

    fn kept(&self, disk: &Disk) -> Result<Kept, FlowsError> {
        let marks = *lock(&self.0.marks);
        let first = |grain: Grain| -> Result<u64, FlowsError> {
            let first = disk.range(key(grain, 0)..vec![grain.byte() + 1])?.next();
            // A history that began in the middle of an hour has all of its minutes.
            Ok(first.transpose()?.map_or(u64::MAX, |(key, _)| {
                let start = start_of(&key, grain);
                start - start % grain.larger()
            }))
        };
        let last = disk
            .range(key(Grain::Minute, 0)..vec![Grain::Minute.byte() + 1])?
            .next_back();
        let last = last
            .transpose()?
            .map_or(0, |(key, _)| start_of(&key, Grain::Minute) + MINUTE);
        Ok(Kept {
            end: last.max(marks.hours),
            minutes: first(Grain::Minute)?,
            hours: (first(Grain::Hour)?, marks.hours),
            days: (first(Grain::Day)?, marks.days),
        })
    }

    /// Whether others keep their room when so many bytes are written.
    fn has_room(&self, disk: &Disk, bytes: u64) -> Result<(), FlowsError> {
        let (free, reserve) = (disk.room(), self.0.config.reserve);
        match free < reserve.saturating_add(bytes) {
            true => Err(FlowsError::Full { free, reserve }),
            false => Ok(()),
        }
    }

    /// Returns whether there was something to write.
    fn write_minute(&self, now: u64, all: bool) -> Result<bool, FlowsError> {
        let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
        let (minute, counted, unsaved, next) = {
            let mut open = lock(&self.0.open);
            let over = now < open.minute || now >= open.minute.saturating_add(MINUTE);
            if open.minute == 0 || !(over || all) {
                return Ok(false);
            }
            let counted = std::mem::take(&mut open.cells);
            let minute = std::mem::take(&mut open.minute);
            let unsaved = open.names.take_unsaved();
            (minute, counted, unsaved, open.names.next())
        };
        let write = || -> Result<(), FlowsError> {
            self.has_room(&disk, 0)?;
            let mut batch = sled::Batch::default();
            for (id, name) in &unsaved {
                let mut key = vec![NAME];
                key.extend(id.to_be_bytes());
                batch.insert(key, to_json(&**name)?);
            }
            let mut marks = *lock(&self.0.marks);
            if marks == Marks::default() {
                (marks.hours, marks.days) = (minute - minute % plan::HOUR, minute - minute % plan::DAY);
            }
            marks.next = next;
            batch.insert(MARKS, to_json(&marks)?);
            put_cells(&disk, &mut batch, Grain::Minute, minute, &counted)?;
            disk.write(batch)?;
            *lock(&self.0.marks) = marks;
            Ok(())
        };
        write().inspect_err(|_| lock(&self.0.open).names.put_back(unsaved.clone()))?;
        Ok(true)
    }
}

/// Puts a bucket's cells behind what it has.
fn put_cells(
    disk: &Disk,
    batch: &mut sled::Batch,
    grain: Grain,
    start: u64,
    cells: &Cells,
) -> Result<(), FlowsError> {
    let there = disk
        .range(key(grain, start)..key(grain, start + grain.seconds()))?
        .count();
    for (n, chunk) in (there..).zip(cells::encode(cells, start)) {
        let mut key = key(grain, start);
        key.extend(u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        batch.insert(key, chunk);
    }
    Ok(())
}

/// Where the records of a bucket begin: its grain, and its number since 1970.
fn key(grain: Grain, start: u64) -> Vec<u8> {
    let number = u32::try_from(start / grain.seconds()).unwrap_or(u32::MAX);
    let mut key = vec![grain.byte()];
    key.extend(number.to_be_bytes());
    key
}

/// When the bucket of a record begins, seconds since 1970.
fn start_of(key: &[u8], grain: Grain) -> u64 {
    let number = key.get(1..5).and_then(|n| <[u8; 4]>::try_from(n).ok());
    u64::from(number.map_or(0, u32::from_be_bytes)) * grain.seconds()
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, FlowsError> {
    serde_json::to_vec(value).map_err(|e| FlowsError::Damaged(e.to_string()))
}

fn from_json<T: for<'d> Deserialize<'d>>(bytes: &[u8]) -> Result<T, FlowsError> {
    serde_json::from_slice(bytes).map_err(|e| FlowsError::Damaged(e.to_string()))
}

/// Locks, and takes what a panicked holder left: every value here is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
