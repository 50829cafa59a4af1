// SPDX-License-Identifier: GPL-3.0-only
//! What was found, and how often: in memory, and beside the history of flows, so that it outlives the daemon.
//!
//! What is new is written with the look that found it, counts now and then. Nobody waits for that but the thread that looks for
//! threats; what could not be written is tried again.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use policyd_analytics::Found;
use policyd_api::{self as api, KnownThreat, Process};
use policyd_store::{FlowStore, Records};
use serde::{Deserialize, Serialize};

use crate::registry::lock;

/// Threats that are remembered.
pub(super) const REMEMBERED: usize = 1000;
/// Quiet after which a threat that comes again is told again, ns.
pub(super) const QUIET: u64 = 3_600_000_000_000;
/// How often counts are written that grew.
const SAVE: Duration = Duration::from_secs(10);
/// Of what kind the records are.
const KIND: &str = "threat";
/// Bytes that a record may have, so that all of them together are few: guests have a say in what is in them.
const RECORD: usize = 2048;
/// Bytes that a key may have.
const KEY: usize = 256;

/// What makes a threat the same as another: rule, domain, and a key of the rule's own.
type Same = (String, String, String);

/// A threat as it is on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: String,
    threat: KnownThreat,
}

struct Remembered {
    /// Of its record.
    number: u64,
    threat: KnownThreat,
    unsaved: bool,
}

#[derive(Default)]
struct Known {
    threats: HashMap<Same, Remembered>,
    /// The number of the next record.
    next: u64,
    /// Records that are to go.
    gone: Vec<u64>,
    forgotten: u64,
    /// Something is to be written at once.
    urgent: bool,
}

/// What was found.
#[derive(Default)]
pub struct Threats {
    known: Mutex<Known>,
    pub(super) missed: AtomicU64,
    saved: Mutex<Saved>,
}

/// How writing goes.
#[derive(Default)]
struct Saved {
    at: Option<Instant>,
    problem: Option<String>,
}

impl Threats {
    /// What earlier daemons found. Without a store, or where it cannot be read, it begins with nothing.
    pub fn load(store: Option<&FlowStore>) -> Threats {
        let Some(store) = store else {
            return Threats::default();
        };
        let records = store.records::<Record>(KIND).unwrap_or_else(|why| {
            log::warn!("what threats were known cannot be read: {why}");
            Records::default()
        });
        let mut known = Known {
            forgotten: records.damaged.len() as u64,
            ..Known::default()
        };
        if !records.damaged.is_empty() {
            log::warn!(
                "{} threats that were known cannot be read: their records are damaged",
                records.damaged.len()
            );
        }
        for number in &records.damaged {
            known.next = known.next.max(number.saturating_add(1));
        }
        known.gone = records.damaged;
        for (number, Record { key, threat }) in records.whole {
            known.next = known.next.max(number.saturating_add(1));
            let domain = threat.domain.clone().unwrap_or_default();
            let remembered = Remembered {
                number,
                threat,
                unsaved: false,
            };
            let same = (remembered.threat.threat.rule.clone(), domain, key);
            if let Some(before) = known.threats.insert(same, remembered) {
                known.gone.push(before.number);
            }
        }
        while known.threats.len() > REMEMBERED {
            known.forget();
        }
        Threats {
            known: Mutex::new(known),
            ..Threats::default()
        }
    }

    /// `GET /v1/threats`.
    pub fn list(&self, domain: Option<&str>, severity: Option<api::Severity>) -> api::Threats {
        let known = lock(&self.known);
        let wanted = |threat: &&KnownThreat| {
            domain.is_none_or(|name| threat.domain.as_deref() == Some(name))
                && severity.is_none_or(|least| threat.threat.severity >= least)
        };
        let all = known.threats.values().map(|remembered| &remembered.threat);
        let mut threats: Vec<KnownThreat> = all.filter(wanted).cloned().collect();
        threats.sort_by_key(|threat| std::cmp::Reverse(threat.last_ns));
        api::Threats {
            threats,
            forgotten: known.forgotten,
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Notes what was done about it.
    pub(super) fn answered(&self, found: &Found) {
        let mut known = lock(&self.known);
        if let Some(remembered) = known.threats.get_mut(&same(found)) {
            remembered.threat.threat.answer.clone_from(&found.threat.answer);
            remembered.unsaved = true;
            known.urgent = true;
        }
    }

    /// Notes what was found; whether it is to be told.
    pub(super) fn note(&self, found: &Found, now: u64) -> bool {
        let mut known = lock(&self.known);
        let known = &mut *known;
        if let Some(remembered) = known.threats.get_mut(&same(found)) {
            let before = &mut remembered.threat;
            // Both ways: a clock that was ahead, and was set right, must not keep a threat quiet until it gets there again.
            let quiet = now.abs_diff(before.last_ns) >= QUIET;
            let worse = found.threat.severity > before.threat.severity;
            (before.last_ns, before.count) = (now, before.count + 1);
            // A domain that came again has another.
            before.domid = found.domid.or(before.domid);
            if worse {
                before.threat = found.threat.clone();
            }
            remembered.unsaved = true;
            known.urgent |= quiet || worse;
            return quiet || worse;
        }
        if known.threats.len() >= REMEMBERED {
            known.forget();
        }
        let threat = KnownThreat {
            domain: Some(found.domain.clone()),
            domid: found.domid,
            first_ns: now,
            last_ns: now,
            count: 1,
            threat: found.threat.clone(),
        };
        let number = known.next;
        known.next = number.saturating_add(1);
        let remembered = Remembered {
            number,
            threat,
            unsaved: true,
        };
        known.threats.insert(same(found), remembered);
        known.urgent = true;
        true
    }

    /// Writes what is new, and now and then what was only counted. `all`: that, too.
    pub(super) fn save(&self, store: &FlowStore, all: bool) {
        let mut saved = lock(&self.saved);
        let due = all || saved.at.is_none_or(|at| at.elapsed() >= SAVE);
        let changes = {
            let mut known = lock(&self.known);
            // What could not be written is not tried again at once.
            let urgent = known.urgent && saved.problem.is_none();
            if !(due || urgent) {
                return;
            }
            known.take_changes()
        };
        saved.at = Some(Instant::now());
        if changes.is_empty() {
            return;
        }
        let numbers: Vec<(u64, bool)> = changes.iter().map(|(n, record)| (*n, record.is_some())).collect();
        let problem = store.put_records(KIND, changes).err().map(|e| e.to_string());
        if let Some(why) = &problem {
            lock(&self.known).put_back(&numbers);
            if saved.problem.as_ref() != Some(why) {
                log::warn!("threats that were found are not written: {why}");
            }
        }
        saved.problem = problem;
    }
}

impl Known {
    /// Lets the least go, of these the one that was not found for longest.
    fn forget(&mut self) {
        let oldest = self
            .threats
            .iter()
            .min_by_key(|(_, r)| (r.threat.threat.severity, r.threat.last_ns))
            .map(|(same, _)| same.clone());
        if let Some(remembered) = oldest.and_then(|oldest| self.threats.remove(&oldest)) {
            self.gone.push(remembered.number);
            self.forgotten += 1;
        }
    }

    fn take_changes(&mut self) -> Vec<(u64, Option<Record>)> {
        self.urgent = false;
        let mut changes: Vec<(u64, Option<Record>)> = std::mem::take(&mut self.gone)
            .into_iter()
            .map(|n| (n, None))
            .collect();
        for ((_, _, key), remembered) in &mut self.threats {
            if std::mem::take(&mut remembered.unsaved) {
                changes.push((remembered.number, Some(record(key, &remembered.threat))));
            }
        }
        changes
    }

    /// They were not written.
    fn put_back(&mut self, numbers: &[(u64, bool)]) {
        let those = |kept: bool| numbers.iter().filter(move |(_, is)| *is == kept).map(|(n, _)| *n);
        self.gone.extend(those(false));
        let kept: HashSet<u64> = those(true).collect();
        for remembered in self.threats.values_mut() {
            remembered.unsaved |= kept.contains(&remembered.number);
        }
    }
}

/// A key of a guest's making may be of any length; what is left of it still tells it from others.
fn same(found: &Found) -> Same {
    let rule = found.threat.rule.clone();
    let key = match found.key.len() {
        ..=KEY => found.key.clone(),
        _ => {
            let mut hasher = DefaultHasher::new();
            found.key.hash(&mut hasher);
            format!("{}… {:016x}", start(&found.key, KEY / 2), hasher.finish())
        }
    };
    (rule, found.domain.clone(), key)
}

/// What is written of a threat: all of it where it is no larger than a record may be.
fn record(key: &str, threat: &KnownThreat) -> Record {
    let whole = |threat: KnownThreat| Record {
        key: key.to_owned(),
        threat,
    };
    let fits = |record: &Record| serde_json::to_vec(record).is_ok_and(|bytes| bytes.len() <= RECORD);
    let record = whole(threat.clone());
    if fits(&record) {
        return record;
    }
    let mut less = threat.clone();
    shorten(&mut less.threat.title, 200);
    less.threat.evidence.truncate(4);
    for evidence in &mut less.threat.evidence {
        shorten(evidence, 120);
    }
    if let Some(answer) = &mut less.threat.answer {
        shorten(answer, 200);
    }
    if let Some(process) = &mut less.threat.process {
        shorten_process(process);
    }
    let record = whole(less.clone());
    if fits(&record) {
        return record;
    }
    // Characters that are written out take six bytes each: then it is what was found, and of whom.
    less.threat.process = None;
    less.threat.evidence.clear();
    whole(less)
}

fn shorten_process(process: &mut Process) {
    let mut left = 200;
    let whole = process.args.len();
    process.args.retain(|arg| {
        let fits = arg.len() < left;
        left = if fits { left - arg.len() } else { 0 };
        fits
    });
    if process.args.len() < whole {
        process.args.push("…".into());
    }
    process.parents.truncate(2);
    let optional = [&mut process.exe, &mut process.container, &mut process.cgroup];
    let texts = optional.into_iter().flatten().chain(&mut process.parents);
    texts.for_each(|text| shorten(text, 120));
}

fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        *text = format!("{}…", start(text, bytes));
    }
}

/// The first characters of a text that are no more than so many bytes.
fn start(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    // 0 is one.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use policyd_store::FlowConfig;

    use super::super::tests::found;
    use super::*;

    fn store(dir: &std::path::Path) -> FlowStore {
        let config = FlowConfig {
            reserve: 0,
            ..FlowConfig::default()
        };
        FlowStore::open(&dir.join("flows"), config).expect("opens")
    }

    /// A list without the order of those that were found at the same time.
    fn sorted(threats: &Threats) -> Vec<KnownThreat> {
        let mut list = threats.list(None, None).threats;
        list.sort_by_key(|threat| (threat.first_ns, threat.threat.rule.clone()));
        list
    }

    #[test]
    fn a_threat_is_told_once_until_it_was_quiet_or_is_worse() {
        use api::Severity::{Alert, Warning};
        let threats = Threats::default();
        let scan = |severity| found("port-scan", "x", severity);
        assert!(threats.note(&scan(Warning), 1));
        assert!(!threats.note(&scan(Warning), 2));
        assert!(threats.note(&scan(Alert), 3));
        assert!(!threats.note(&scan(Alert), 4));
        assert!(threats.note(&found("port-scan", "y", Warning), 5));
        assert!(threats.note(&scan(Alert), 4 + QUIET));
        let list = threats.list(Some("web1"), None).threats;
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[0].count, list[0].first_ns, list[0].threat.severity),
            (5, 1, Alert)
        );
        assert_eq!(threats.list(Some("db1"), None).threats.len(), 0);
        assert_eq!(threats.list(None, Some(Alert)).threats.len(), 1);
    }

    #[test]
    fn the_least_and_oldest_are_forgotten_first() {
        use api::Severity::{Alert, Notice};
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let threats = Threats::default();
        threats.note(&found("a", "worst", Alert), 0);
        threats.note(&found("b", "oldest", Notice), 1);
        threats.save(&store, true);
        for n in 1..REMEMBERED {
            threats.note(&found("b", &n.to_string(), Notice), 1 + n as u64);
        }
        let list = threats.list(None, None);
        assert_eq!((list.threats.len(), list.forgotten), (REMEMBERED, 1));
        assert!(list.threats.iter().any(|threat| threat.threat.rule == "a"));
        threats.save(&store, true);
        // On the disk, too: what is kept there is bounded.
        assert_eq!(
            store.records::<Record>(KIND).expect("reads").whole.len(),
            REMEMBERED
        );
        assert_eq!(sorted(&Threats::load(Some(&store))), sorted(&threats));
    }

    #[test]
    fn what_was_found_is_known_to_the_next_daemon_and_not_told_again_within_its_hour() {
        use api::Severity::{Alert, Warning};
        let dir = tempfile::tempdir().expect("a directory");
        let began = 1_700_000_000_000_000_000;
        let mut shell = found("reverse-shell", "/bin/sh 192.0.2.9:1", Alert);
        {
            let store = store(dir.path());
            let threats = Threats::load(Some(&store));
            assert!(threats.note(&shell, began));
            shell.threat.answer = Some("denied".into());
            threats.answered(&shell);
            threats.note(&found("port-scan", "x", Warning), began + 1);
            threats.save(&store, false);
            assert!(!threats.note(&shell, began + 2));
            // As at an orderly end.
            threats.save(&store, true);
        }
        let store = store(dir.path());
        let threats = Threats::load(Some(&store));
        let list = threats.list(None, None).threats;
        assert_eq!(list.len(), 2);
        assert_eq!(
            (
                list[0].first_ns,
                list[0].last_ns,
                list[0].count,
                list[0].threat.answer.as_deref()
            ),
            (began, began + 2, 2, Some("denied"))
        );
        assert!(!threats.note(&shell, began + QUIET));
        assert!(threats.note(&found("port-scan", "y", Warning), began));
        assert!(threats.note(&shell, began + 2 * QUIET));
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_nothing_quiet() {
        let threats = Threats::default();
        let scan = found("port-scan", "x", api::Severity::Warning);
        assert!(threats.note(&scan, 100 * QUIET));
        assert!(threats.note(&scan, 3));
        // Set back by a second it tells nothing twice.
        assert!(!threats.note(&scan, 2));
    }

    #[test]
    fn damaged_records_are_counted_and_go() {
        use api::Severity::Alert;
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let threats = Threats::load(Some(&store));
        threats.note(&found("a", "x", Alert), 5);
        threats.save(&store, false);
        let damage = [(7, Some("no threat")), (9, Some("neither"))];
        store.put_records(KIND, damage).expect("writes");
        let threats = Threats::load(Some(&store));
        let list = threats.list(None, None);
        assert_eq!((list.threats.len(), list.forgotten), (1, 2));
        // What comes then takes no number that is there.
        threats.note(&found("b", "x", Alert), 6);
        threats.save(&store, false);
        let records = store.records::<Record>(KIND).expect("reads");
        let numbers: Vec<u64> = records.whole.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, records.damaged.len()), (vec![0, 10], 0));
    }

    #[test]
    fn what_is_new_is_written_at_once_and_counts_now_and_then() {
        use api::Severity::Alert;
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let counts = || -> Vec<u64> {
            let records = store.records::<Record>(KIND).expect("reads");
            records
                .whole
                .iter()
                .map(|(_, record)| record.threat.count)
                .collect()
        };
        let threats = Threats::default();
        threats.note(&found("a", "x", Alert), 5);
        threats.save(&store, false);
        assert_eq!(counts(), [1]);
        threats.note(&found("a", "x", Alert), 6);
        threats.save(&store, false);
        assert_eq!(counts(), [1]);
        threats.note(&found("b", "x", Alert), 7);
        threats.save(&store, false);
        assert_eq!(counts(), [2, 1]);
    }

    #[test]
    fn on_a_full_disk_threats_are_known_all_the_same_and_written_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let threats = Threats::default();
        threats.note(&found("a", "x", api::Severity::Alert), 5);
        {
            let config = FlowConfig {
                reserve: u64::MAX,
                ..FlowConfig::default()
            };
            let full = FlowStore::open(&dir.path().join("flows"), config).expect("opens");
            threats.save(&full, true);
            threats.save(&full, true);
        }
        assert_eq!(threats.list(None, None).threats.len(), 1);
        let store = store(dir.path());
        threats.save(&store, true);
        assert_eq!(sorted(&Threats::load(Some(&store))), sorted(&threats));
    }

    #[test]
    fn a_record_is_small_whatever_a_guest_calls_things() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        for filling in ["x", "\u{1}", "\u{20ac}", "\""] {
            let long = filling.repeat(30_000);
            let mut loud = found("miner", &long, api::Severity::Alert);
            loud.threat.title = long.clone();
            loud.threat.evidence = vec![long.clone(); 9];
            loud.threat.answer = Some(long.clone());
            let mut process: Process = serde_json::from_value(serde_json::json!({
                "pid": 1, "ppid": 0, "uid": 0, "euid": 0, "gid": 0, "loginuid": null, "comm": "sh", "exe": long,
                "exe_deleted": false, "args": [], "container": long, "netns": 1, "start_time_ns": 1, "parents": [],
            }))
            .expect("a process");
            process.args = vec![filling.to_owned(); 30_000];
            process.parents = vec![long.clone(); 8];
            loud.threat.process = Some(Box::new(process));
            let threats = Threats::default();
            assert!(threats.note(&loud, 1));
            loud.key.push('y');
            assert!(threats.note(&loud, 1), "another key is another threat");
            assert!(!threats.note(&loud, 2));
            threats.save(&store, true);
            let known = lock(&threats.known);
            for ((_, _, key), remembered) in &known.threats {
                let bytes = serde_json::to_vec(&record(key, &remembered.threat)).expect("writes");
                assert!(bytes.len() <= 2 * RECORD, "{filling:?}: {} bytes", bytes.len());
            }
            drop(known);
            let again = Threats::load(Some(&store));
            assert!(!again.note(&loud, 3), "it is known again by its key");
            store
                .put_records::<u64>(KIND, [(0, None), (1, None)])
                .expect("writes");
        }
    }
}
