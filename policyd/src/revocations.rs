// SPDX-License-Identifier: GPL-3.0-only
//! Connections that a change of policy ends, though nobody speaks on them: a thread of its own makes their guests speak, so that
//! they meet the refusal (see [`Revoker`]).

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use netback_filter::{Datapath, FlowKey, FlowWriter, Revoker};

use crate::registry::lock;

/// The most connections that one change ends so; more end when they speak.
const MOST: usize = 4096;
/// Changes that wait.
const WAITING: usize = 4;
/// So many at once, then a pause.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// Where they are told.
pub struct Revocations {
    out: Sender<Vec<FlowKey>>,
}

impl Revocations {
    /// Starts the thread; it ends when this is dropped. Where it cannot do its work, the log says so once.
    pub fn start(datapath: Arc<Mutex<Datapath>>, flows: FlowWriter) -> Revocations {
        let (out, keys) = bounded(WAITING);
        let started = Revoker::open(flows).and_then(|revoker| {
            thread::Builder::new()
                .name("revoke".into())
                .spawn(move || work(&revoker, &datapath, &keys))
        });
        if let Err(e) = started {
            log::warn!("connections that a change of policy ends do so when they next speak: {e}");
        }
        Revocations { out }
    }

    /// Ends these, whose verdicts are in force. Does not wait.
    pub fn end(&self, mut keys: Vec<FlowKey>) {
        if keys.is_empty() {
            return;
        }
        if keys.len() > MOST {
            log::info!(
                "{} connections are revoked; {MOST} end now, the others when they speak",
                keys.len()
            );
            keys.truncate(MOST);
        }
        if let Err(e) = self.out.try_send(keys) {
            log::debug!("{} connections end when they next speak", e.into_inner().len());
        }
    }
}

fn work(revoker: &Revoker, datapath: &Mutex<Datapath>, keys: &Receiver<Vec<FlowKey>>) {
    while let Ok(keys) = keys.recv() {
        let vifs = match lock(datapath).attached() {
            Ok(vifs) => vifs,
            Err(e) => {
                log::warn!("connections that were revoked end when they next speak: {e}");
                continue;
            }
        };
        for burst in keys.chunks(BURST) {
            for key in burst {
                if let Err(e) = revoker.revoke(key, &vifs) {
                    log::debug!("{key}: ends when it next speaks: {e}");
                }
            }
            thread::sleep(PAUSE);
        }
    }
}
