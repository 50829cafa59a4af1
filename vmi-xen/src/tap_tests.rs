// SPDX-License-Identifier: GPL-3.0-only
use super::*;
use crate::altp2m::{Armed, Stats};
use crate::traps::Degree;

/// Knows which probes are there, and nothing of any guest.
#[derive(Default)]
struct Engine {
    armed: BTreeSet<u32>,
    /// What each probe's page has cost since it was armed.
    accesses: u64,
}

impl Traps for Engine {
    fn degree(&self) -> Degree {
        Degree::Altp2m
    }
    fn arm(&mut self, id: ProbeId, va: u64, _: u64) -> Result<Armed, EngineError> {
        self.armed.insert(id.0);
        Ok(Armed { va, one_exit: true })
    }
    fn arm_at(&mut self, id: ProbeId, va: u64, pa: u64) -> Result<Armed, EngineError> {
        self.arm(id, va, pa)
    }
    fn disarm(&mut self, id: ProbeId) -> Result<(), EngineError> {
        self.armed.remove(&id.0);
        Ok(())
    }
    fn poll(&mut self, _: Duration, _: &mut crate::traps::Handler<'_>) -> Result<usize, EngineError> {
        Ok(0)
    }
    fn audit(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
    fn page_accesses(&self, id: ProbeId) -> u64 {
        if self.armed.contains(&id.0) {
            self.accesses
        } else {
            0
        }
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn waker(&self) -> Waker {
        Waker::new().unwrap()
    }
}

/// Writes down what it is told.
struct Listener(Arc<Mutex<Vec<String>>>);

impl Tap for Listener {
    fn places(&mut self, _: &Linux<LiveMemory>) -> Result<Vec<Place>, String> {
        Ok(Vec::new())
    }
    fn refused(&mut self, _: Place, _: &EngineError) -> Next {
        Next::Continue
    }
    fn fire(&mut self, _: u32, _: &Trap<'_>, _: &Linux<LiveMemory>, _: &mut Watch) -> Next {
        Next::Continue
    }
    fn rests(&mut self, time: Duration, why: &str) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{} s: {why}", time.as_secs()));
    }
    fn ended(&mut self, why: Option<&str>) {
        self.0.lock().unwrap().push(format!("ended: {why:?}"));
    }
}

/// Two taps that run: the first has the probes 1 and 2, the second shares 2 with it.
fn two() -> (Taps, TapHandle, Engine, Arc<Mutex<Vec<String>>>) {
    let mut engine = Engine::default();
    let (handle, mut taps) = TapHandle::new(engine.waker());
    let told = Arc::default();
    for number in [1, 2] {
        let running = Running {
            tap: Box::new(Listener(Arc::clone(&told))),
            places: Vec::new(),
            armed: true,
            next: Next::Continue,
        };
        taps.running.insert(number, running);
    }
    for (id, users) in [(1, vec![(1, 0)]), (2, vec![(1, 1), (2, 0)])] {
        let va = 0x1000 * u64::from(id);
        engine.arm(ProbeId(id), va, 0).unwrap();
        let probe = Probe {
            va,
            entry: true,
            users,
            accesses: 0,
        };
        taps.probes.insert(ProbeId(id), probe);
    }
    taps.publish();
    (taps, handle, engine, told)
}

/// What is due, in the order of the taps.
fn due(taps: &Taps) -> Vec<(u64, Next)> {
    let mut due = taps.due();
    due.sort_by_key(|(number, _)| *number);
    due
}

#[test]
fn taps_over_the_budget_rest_all_and_come_back() {
    let (mut taps, handle, mut engine, told) = two();
    assert_eq!(due(&taps), []);
    assert!(handle.has_probe_at(0x2000));
    assert_eq!((taps.status().probes, taps.status().rests), (2, None));

    taps.rest(Duration::from_secs(10), "rests: it costs too much".into());
    assert_eq!(*told.lock().unwrap(), ["10 s: rests: it costs too much"; 2]);
    assert_eq!(due(&taps), [(1, Next::Rest), (2, Next::Rest)]);
    for number in [1, 2] {
        taps.disarm(number, &mut engine).unwrap();
    }
    assert!(engine.armed.is_empty() && !handle.has_probe_at(0x2000));
    // Both want more, and may not.
    assert_eq!(due(&taps), []);
    let status = taps.status();
    assert_eq!(
        (status.probes, status.rests.as_deref()),
        (0, Some("rests: it costs too much"))
    );
    let refusal = taps.refusal().unwrap();
    assert!(
        refusal.contains("it costs too much; try again in 10 s"),
        "{refusal}"
    );
    // One that has seen enough ends all the same.
    taps.running.get_mut(&2).unwrap().next = Next::Finish;
    assert_eq!(due(&taps), [(2, Next::Finish)]);

    taps.resume();
    assert_eq!(due(&taps), [(1, Next::Continue), (2, Next::Finish)]);
    assert_eq!((taps.refusal(), taps.status().rests), (None, None));
}

#[test]
fn what_taps_pages_cost_is_counted_once_and_outlives_them() {
    let (mut taps, _, mut engine, _) = two();
    engine.accesses = 5;
    assert_eq!(taps.metered(&engine).accesses, 10);
    assert_eq!(taps.metered(&engine).accesses, 10);
    engine.accesses = 7;
    // The first's own probe goes; the shared one stays.
    taps.end(1, &mut engine, None).unwrap();
    assert_eq!(engine.armed, BTreeSet::from([2]));
    assert_eq!(taps.metered(&engine).accesses, 14);
    assert_eq!(taps.status().meter.side_cost(), taps.metered(&engine).cost());
}
