// SPDX-License-Identifier: GPL-3.0-only
//! Traces of system calls: begun for one reader, and gone with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use policyd_api::{TraceFilter, TraceItem, TracedCall};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, channel};
use vmi_xen::syscall::{Abi, errno, table};
use vmi_xen::tap::TapHandle;
use vmi_xen::trace::sites::Wanted;
use vmi_xen::trace::{Filter, Told, Traced, Tracer};

use crate::daemon::DaemonError;
use crate::registry::DomainEntry;

/// Calls on their way from a domain's thread to one reader.
const WAITING: usize = 4096;
/// Calls a second, unless the reader says otherwise.
const LIMIT: u32 = 2000;
/// Names that a reader may ask for at once.
const MAX_NAMES: usize = 512;

/// A trace that runs. Dropping it takes its probes away.
pub struct Trace {
    told: Receiver<Told>,
    lost: Arc<AtomicU64>,
    taps: TapHandle,
    number: u64,
}

impl Trace {
    /// Begins a trace of a domain.
    ///
    /// # Errors
    /// Where the domain cannot be traced now, or nothing to trace is named.
    pub fn begin(entry: &DomainEntry, filter: &TraceFilter) -> Result<Trace, DaemonError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let wanted = wanted(&filter.syscall)?;
        let taps = entry.taps().ok_or_else(|| {
            DaemonError::Unavailable(format!(
                "{} is not watched by traps, so that its calls cannot be traced; `xmesh list -v` says why",
                entry.vm.name
            ))
        })?;
        let (sender, told) = channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let tell = {
            let lost = Arc::clone(&lost);
            move |told| match sender.try_send(told) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        };
        let whose = Filter {
            pid: filter.pid,
            exe: filter.exe.clone(),
        };
        let tracer = Tracer::new(wanted, whose, filter.limit.unwrap_or(LIMIT), tell);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        taps.begin(number, Box::new(tracer))
            .map_err(|e| DaemonError::Unavailable(format!("{}: {e}", entry.vm.name)))?;
        Ok(Trace {
            told,
            lost,
            taps,
            number,
        })
    }

    /// The next item; none once the trace is over.
    pub async fn next(&mut self) -> Option<TraceItem> {
        Some(match self.told.recv().await? {
            Told::Begun { calls, gaps } => TraceItem::Begin { calls, gaps },
            Told::Call(call) => TraceItem::Call(present(&call)),
            Told::LeftOut(left_out) => TraceItem::LeftOut {
                count: left_out.count,
                at_least: left_out.at_least,
            },
            Told::Rests { time, why } => TraceItem::Rest {
                seconds: time.as_secs(),
                why,
            },
            Told::Resumed => TraceItem::Resumed,
            Told::Ended(why) => TraceItem::End { why },
        })
    }

    /// Items that the reader was too slow for, since this was last asked.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Where this fails the tracer finds out by itself that nobody listens.
        let _ = self.taps.end(self.number);
    }
}

/// Names of calls, with words for several taken apart.
fn wanted(list: &str) -> Result<Vec<Wanted>, DaemonError> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (calls, optional) = match table::class(word) {
            Some(calls) => (calls.to_vec(), true),
            None if is_name(word) => (vec![word], false),
            None => {
                let classes = table::CLASSES.map(|(name, _)| name).join(", ");
                return Err(DaemonError::Invalid(format!(
                    "`{word}` is no system call; name some as `connect,openat`, or {classes}"
                )));
            }
        };
        for name in calls {
            if !wanted.iter().any(|known| known.name == name) {
                let name = name.to_owned();
                wanted.push(Wanted { name, optional });
            }
        }
    }
    if wanted.is_empty() || wanted.len() > MAX_NAMES {
        return Err(DaemonError::Invalid(format!(
            "name one to {MAX_NAMES} system calls"
        )));
    }
    Ok(wanted)
}

/// Whether a word can be part of a kernel's symbol.
fn is_name(word: &str) -> bool {
    word.len() <= 64
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn present(traced: &Traced) -> TracedCall {
    let Traced {
        who,
        call,
        arguments,
        result,
        ..
    } = traced;
    let args: Vec<String> = arguments.texts(call).into_iter().map(str::to_owned).collect();
    let syscall = call.name();
    let shown = match result {
        Some(value) => call.result(*value, arguments),
        None => "?".to_owned(),
    };
    TracedCall {
        time_ns: traced
            .time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
        pid: who.process.tgid,
        tid: traced.tid,
        comm: who.process.comm.clone(),
        exe: who.process.exe.as_deref().map(str::to_owned),
        uid: who.process.uid,
        euid: who.process.euid,
        container: who.process.container.clone(),
        abi: call.abi.as_str().to_owned(),
        result: result.map(|value| match call.abi {
            Abi::X64 => value as i64,
            Abi::Ia32 => i64::from(value as i32),
        }),
        error: result.and_then(|value| errno(call.abi, value)),
        text: format!("{syscall}({}) = {shown}", args.join(", ")),
        syscall,
        args,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_names_once_each() {
        let all = wanted("connect,%network, openat").expect("names");
        let of = |name: &str| all.iter().filter(|one| one.name == name).collect::<Vec<_>>();
        assert!(matches!(of("connect")[..], [one] if !one.optional));
        assert!(matches!(of("accept4")[..], [one] if one.optional));
        assert_eq!(of("openat").len(), 1);
        for bad in ["", " , ", "%everything", "open at", "open;at"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
