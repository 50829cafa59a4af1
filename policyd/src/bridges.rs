// SPDX-License-Identifier: GPL-3.0-only
//! Keeps the datapath told of bridges, so that packets between guests of one bridge go straight from vif to vif where the bridge
//! would only forward them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netback_filter::{BridgeWatch, DIRECT_LEASE, Datapath, Detour, DirectVif};

use crate::registry::lock;

/// Without any message it looks this often all the same: some settings make none, and what was seen holds for a time only.
const PERIOD: Duration = Duration::from_secs(3);
const _: () = assert!(PERIOD.as_millis() * 3 < DIRECT_LEASE.as_millis());
/// Between two looks, at least: a storm of messages is one. And so many times as long as a look took, so that a storm takes a tenth
/// of one CPU at most.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSES: u32 = 9;

/// The way of each vif's packets, by its name, as it was logged last.
type Ways = BTreeMap<String, Result<(), Detour>>;

/// Looks until `stop`, and has all go by the bridges then.
pub fn run(datapath: &Mutex<Datapath>, stop: &AtomicBool) {
    let watch = BridgeWatch::open();
    if let Err(e) = &watch {
        log::warn!("no messages about bridges from the kernel ({e}); looking every {PERIOD:?} instead");
    }
    let mut ways = Ways::new();
    let mut trouble = None;
    while !stop.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let looked = lock(datapath).renew_direct();
        let pause = PAUSE.max(begun.elapsed() * PAUSES);
        match looked {
            Ok(vifs) => {
                trouble = None;
                tell(&mut ways, vifs);
            }
            Err(e) => {
                let text = e.to_string();
                if trouble.as_ref() != Some(&text) {
                    log::warn!("bridges: {text}; all packets go by them");
                    trouble = Some(text);
                }
            }
        }
        wait(watch.as_ref().ok(), pause, stop);
    }
    stop_direct(datapath);
}

/// Has all packets go by the bridges.
pub fn stop_direct(datapath: &Mutex<Datapath>) {
    if let Err(e) = lock(datapath).stop_direct() {
        log::warn!("bridges: {e}; packets may go past them for another {DIRECT_LEASE:?}");
    }
}

/// A period, or less when something changed. In steps, so that the daemon's end is not kept waiting.
fn wait(watch: Option<&BridgeWatch>, pause: Duration, stop: &AtomicBool) {
    const STEP: Duration = Duration::from_millis(500);
    for _ in 0..PERIOD.as_millis() / STEP.as_millis() {
        let news = match watch {
            Some(watch) => watch.wait(STEP),
            None => {
                std::thread::sleep(STEP);
                false
            }
        };
        if news {
            std::thread::sleep(pause.min(PERIOD));
            return;
        }
        if stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

/// Logs what changed.
fn tell(ways: &mut Ways, vifs: Vec<DirectVif>) {
    let now: Ways = vifs.into_iter().map(|vif| (vif.name, vif.way)).collect();
    for (name, way) in &now {
        if ways.get(name) != Some(way) {
            match way {
                Ok(()) => log::info!("{name}: packets to guests of its bridge go straight to them"),
                Err(detour) => log::info!("{name}: all packets go by its bridge ({detour})"),
            }
        }
    }
    *ways = now;
}
