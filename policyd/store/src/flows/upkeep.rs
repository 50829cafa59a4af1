// SPDX-License-Identifier: GPL-3.0-only
//! What becomes of minutes: they are added up, grow old, and make room.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use super::cells::{self, Cells};
use super::disk::Disk;
use super::plan::{DAY, Grain, HOUR};
use super::{
    FlowStore, FlowsError, KEEP_HOURS, KEEP_MINUTES, MARKS, NAME, key, lock, put_cells, start_of, to_json,
};

/// Of each grain, what goes last when there is not enough room: seconds.
const DEAR: [(Grain, u64); 3] = [
    (Grain::Minute, 2 * HOUR),
    (Grain::Hour, 2 * DAY),
    (Grain::Day, 30 * DAY),
];

impl FlowStore {
    /// Adds up hours and days that are over, and does away with what is too old or too much.
    pub(super) fn keep_up(&self, now: u64) -> Result<(), FlowsError> {
        let too_large = {
            let disk = self.0.disk.read().unwrap_or_else(PoisonError::into_inner);
            let hours = self.add_up(&disk, Grain::Minute, Grain::Hour, now)?;
            let days = self.add_up(&disk, Grain::Hour, Grain::Day, now)?;
            if hours {
                self.forget_old(&disk, now)?;
            }
            if days {
                self.forget_names(&disk)?;
            }
            // Compacting takes as much again as what is kept for a moment.
            disk.size() > self.0.config.bytes / 4 * 3
        };
        match too_large {
            true => self.make_room(now),
            false => Ok(()),
        }
    }

    /// Adds the buckets of one grain up to those of the next. Returns whether there were any that are over.
    fn add_up(&self, disk: &Disk, from: Grain, to: Grain, now: u64) -> Result<bool, FlowsError> {
        let mut any = false;
        loop {
            let mut marks = *lock(&self.0.marks);
            let (mark, limit) = match to {
                Grain::Day => (&mut marks.days, marks.hours),
                _ => (&mut marks.hours, now),
            };
            let start = *mark;
            let end = start.saturating_add(to.seconds());
            if end > limit {
                return Ok(any);
            }
            // Long without a daemon: on to what there is.
            let first = disk
                .range(key(from, start)..vec![from.byte() + 1])?
                .next()
                .transpose()?;
            let next = first.map_or(limit, |(key, _)| start_of(&key, from)).min(limit);
            if next >= end {
                *mark = next - next % to.seconds();
            } else {
                *mark = end;
            }
            let mut cells = Cells::new();
            for item in disk.range(key(from, start)..key(from, end))? {
                let (key, value) = item?;
                cells::decode(&value, start_of(&key, from), |_| true, &mut cells)?;
            }
            let mut batch = sled::Batch::default();
            batch.insert(MARKS, to_json(&marks)?);
            put_cells(disk, &mut batch, to, start, &cells)?;
            disk.write(batch)?;
            let mut current = lock(&self.0.marks);
            (current.hours, current.days) = (marks.hours, marks.days);
            any = true;
        }
    }

    fn forget_old(&self, disk: &Disk, now: u64) -> Result<(), FlowsError> {
        let all = self.0.config.days.saturating_mul(DAY);
        let marks = *lock(&self.0.marks);
        let mut batch = sled::Batch::default();
        // None goes before it is added up.
        for (grain, keep, added_up) in [
            (Grain::Minute, KEEP_MINUTES, marks.hours),
            (Grain::Hour, KEEP_HOURS, marks.days),
            (Grain::Day, all, u64::MAX),
        ] {
            let before = now.saturating_sub(keep.min(all)).min(added_up);
            let before = before - before % grain.larger();
            for item in disk.range(key(grain, 0)..key(grain, before))? {
                batch.remove(item?.0);
            }
        }
        disk.write(batch)
    }

    /// Forgets names that nothing is counted under any more.
    fn forget_names(&self, disk: &Disk) -> Result<(), FlowsError> {
        let mut used = BTreeSet::new();
        for grain in Grain::ALL {
            let mut cells = Cells::new();
            for item in disk.range(key(grain, 0)..vec![grain.byte() + 1])? {
                cells::decode(&item?.1, 0, |id| !used.contains(&id), &mut cells)?;
            }
            used.extend(cells.into_keys());
        }
        let unused: Vec<u32> = {
            let mut open = lock(&self.0.open);
            let counted: BTreeSet<u32> = open.cells.keys().copied().collect();
            let ids = open.names.iter().map(|(id, _)| id);
            let unused: Vec<u32> = ids
                .filter(|id| !used.contains(id) && !counted.contains(id))
                .collect();
            for id in &unused {
                open.names.remove(*id);
            }
            unused
        };
        let mut batch = sled::Batch::default();
        for id in unused {
            let mut key = vec![NAME];
            key.extend(id.to_be_bytes());
            batch.remove(key);
        }
        disk.write(batch)
    }

    /// Does away with the oldest until what is kept fits a quarter of the limit, and compacts the files. A quarter, so that
    /// the old and the new files together fit while one is copied to the other, and the next time is some way off.
    fn make_room(&self, now: u64) -> Result<(), FlowsError> {
        let mut disk = self.0.disk.write().unwrap_or_else(PoisonError::into_inner);
        let mut kept = 0u64;
        for item in disk.range(vec![0]..vec![u8::MAX])? {
            let (key, value) = item?;
            kept += (key.len() + value.len()) as u64;
        }
        let mut goal = self.0.config.bytes / 4;
        let last = lock(&self.0.trouble).cut;
        if last != 0 && kept <= goal {
            // The last time it did not help.
            goal = last.min(kept) / 2;
        }
        self.drop_oldest(&disk, now, kept, goal)?;
        self.forget_names(&disk)?;
        // Sled's files are some larger than what is in them.
        self.has_room(&disk, goal.saturating_mul(2))?;
        disk.compact()?;
        lock(&self.0.trouble).cut = match disk.size() > self.0.config.bytes / 2 {
            true => goal,
            false => 0,
        };
        Ok(())
    }

    fn drop_oldest(&self, disk: &Disk, now: u64, mut kept: u64, goal: u64) -> Result<(), FlowsError> {
        let marks = *lock(&self.0.marks);
        let added_up = |grain| match grain {
            Grain::Minute => marks.hours,
            Grain::Hour => marks.days,
            Grain::Day => u64::MAX - DAY,
        };
        let dear = DEAR.map(|(grain, seconds)| {
            let before = now.saturating_sub(seconds).min(added_up(grain));
            (grain, before - before % grain.larger())
        });
        let counted_elsewhere = DEAR.map(|(grain, _)| (grain, added_up(grain)));
        // The bound is what holds in any case: what goes then is missing in its hour, or its day.
        let all = DEAR.map(|(grain, _)| (grain, u64::MAX - DAY));
        for (grain, before) in dear.into_iter().chain(counted_elsewhere).chain(all) {
            let mut batch = sled::Batch::default();
            let mut going = None;
            for item in disk.range(key(grain, 0)..key(grain, before))? {
                let (key, value) = item?;
                let of = start_of(&key, grain) / grain.larger();
                if kept <= goal && going != Some(of) {
                    break;
                }
                going = Some(of);
                kept = kept.saturating_sub((key.len() + value.len()) as u64);
                batch.remove(key);
            }
            disk.write(batch)?;
        }
        Ok(())
    }
}
