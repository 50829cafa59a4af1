// SPDX-License-Identifier: GPL-3.0-only
//! Kinds of flow and their numbers: a name is kept once, whatever the number of buckets that it is counted in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use policyd_api::{FlowEnd, FlowName, Verdict};

/// Most names. With more, what is new is counted as `(others)`, so that nobody who makes up names can fill memory or disk.
pub const MAX_NAMES: usize = 32 << 10;

/// The names.
#[derive(Default)]
pub struct Names {
    by_id: BTreeMap<u32, Arc<FlowName>>,
    by_name: HashMap<Arc<FlowName>, u32>,
    /// The number of the next name: one is never given again.
    next: u32,
    /// Those that are not on the disk yet.
    unsaved: Vec<u32>,
}

impl Names {
    /// The names that are on the disk.
    pub fn load(stored: impl Iterator<Item = (u32, FlowName)>, next: u32) -> Names {
        let mut names = Names {
            next,
            ..Names::default()
        };
        for (id, name) in stored {
            names.put(id, Arc::new(name));
            names.next = names.next.max(id.saturating_add(1));
        }
        names
    }

    fn put(&mut self, id: u32, name: Arc<FlowName>) {
        self.by_id.insert(id, Arc::clone(&name));
        self.by_name.insert(name, id);
    }

    /// The number of a name, or that of all others where there are too many.
    pub fn number(&mut self, name: &Arc<FlowName>) -> u32 {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        if self.by_id.len() >= MAX_NAMES && !is_others(name) {
            return self.number(&Arc::new(others(name.verdict)));
        }
        let id = self.next;
        self.next = self.next.saturating_add(1);
        self.put(id, Arc::clone(name));
        self.unsaved.push(id);
        id
    }

    /// The number that the next new name will have.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<FlowName>)> {
        self.by_id.iter().map(|(id, name)| (*id, name))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Those that are to be written.
    pub fn take_unsaved(&mut self) -> Vec<(u32, Arc<FlowName>)> {
        let ids = std::mem::take(&mut self.unsaved);
        let known = |id: u32| Some((id, Arc::clone(self.by_id.get(&id)?)));
        ids.into_iter().filter_map(known).collect()
    }

    /// They were not written.
    pub fn put_back(&mut self, unsaved: Vec<(u32, Arc<FlowName>)>) {
        self.unsaved.extend(unsaved.into_iter().map(|(id, _)| id));
    }

    /// Forgets a name that nothing is counted under.
    pub fn remove(&mut self, id: u32) {
        if let Some(name) = self.by_id.remove(&id) {
            self.by_name.remove(&name);
        }
    }
}

fn is_others(name: &FlowName) -> bool {
    name.from == FlowEnd::default() && name.to == FlowEnd::default()
}

/// What is not told apart.
fn others(verdict: Verdict) -> FlowName {
    FlowName {
        from: FlowEnd::default(),
        to: FlowEnd::default(),
        protocol: "any".into(),
        port: None,
        verdict,
        rule: "(others)".into(),
        by_policy: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_those_beyond_are_counted_together() {
        let mut names = Names::default();
        let name = |port: u32| {
            Arc::new(FlowName {
                rule: port.to_string(),
                ..others(Verdict::Allow)
            })
        };
        let distinct = |n: u32| {
            let mut name = (*name(n)).clone();
            name.from.domain = Some("a".into());
            Arc::new(name)
        };
        for n in 0..MAX_NAMES as u32 {
            assert_eq!(names.number(&distinct(n)), n);
        }
        let more = names.number(&distinct(1_000_000));
        assert_eq!(names.number(&distinct(1_000_001)), more);
        assert_eq!(names.len(), MAX_NAMES + 1);
        assert_eq!(names.number(&distinct(7)), 7);
        names.remove(7);
        assert_eq!(names.take_unsaved().len(), MAX_NAMES);
    }
}
