// SPDX-License-Identifier: GPL-3.0-only
//! The object file in the kernel: maps made or taken over, and so the programs.
//!
//! To load them costs the verifier seconds on a slow host. So they are pinned, too, under a hash of all that they are made
//! of, and a process that would load the very same over the very same maps takes the pinned ones.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::os::fd::{AsFd, BorrowedFd};

use aya::EbpfLoader;
use aya::maps::{MapInfo, MapType};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::is_map_supported;
use log::{info, warn};
use sha2::{Digest, Sha256};

use crate::datapath::Config;
use crate::error::Error;
use crate::events::EventChannel;
use crate::layout::LAYOUT_VERSION;
use crate::netlink::Hook;
use crate::pins::{MAPS, Pins};
use crate::shares;

static WITH_RING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netback.bpf.o"));
static WITH_PERF: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netback-perf.bpf.o"));

const FROM_GUEST: &str = "from_guest";
const TO_GUEST: &str = "to_guest";

/// The programs in the kernel.
pub(crate) struct Programs {
    from_guest: SchedClassifier,
    to_guest: SchedClassifier,
    taken_over: bool,
}

impl Programs {
    /// Takes over the pinned programs if they are what would be loaded; else loads both over the pinned maps, of which those
    /// that are missing are made and pinned, and pins them in place of earlier ones.
    pub(crate) fn open(config: &Config, pins: &Pins) -> Result<Self, Error> {
        let channel = channel(config.events, pins)?;
        let object = match channel {
            EventChannel::PerfArray => WITH_PERF,
            EventChannel::Auto | EventChannel::Ring => WITH_RING,
        };
        let key = key(object);
        if let Some(programs) = take_over(pins, &key) {
            info!("{}: taking over the programs, too", pins.dir().display());
            return Ok(programs);
        }
        load(object, channel, config, pins, &key)?;
        Ok(Self {
            from_guest: pinned(pins, FROM_GUEST, &key)?,
            to_guest: pinned(pins, TO_GUEST, &key)?,
            taken_over: false,
        })
    }

    /// Whether they were there already.
    pub(crate) fn taken_over(&self) -> bool {
        self.taken_over
    }

    pub(crate) fn descriptor(&self, hook: Hook) -> Result<BorrowedFd<'_>, Error> {
        let program = match hook {
            Hook::Ingress => &self.from_guest,
            Hook::Egress => &self.to_guest,
        };
        program.fd().map(AsFd::as_fd).map_err(failed)
    }

    /// The program for one side of an interface.
    pub(crate) fn of(&mut self, side: TcAttachType) -> &mut SchedClassifier {
        match side {
            TcAttachType::Egress => &mut self.to_guest,
            _ => &mut self.from_guest,
        }
    }
}

/// Of all that decides what the programs are, but for the maps: the object has no data of its own that the loader would
/// set, and sizes are the maps'.
fn key(object: &[u8]) -> String {
    let digest = Sha256::new()
        .chain_update(LAYOUT_VERSION.to_le_bytes())
        .chain_update(object)
        .finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pinned programs, if both are there under this key and work on the maps that are pinned now.
fn take_over(pins: &Pins, key: &str) -> Option<Programs> {
    if ![FROM_GUEST, TO_GUEST]
        .iter()
        .all(|name| pins.program(name, key).exists())
    {
        return None;
    }
    let open = || -> Result<Option<Programs>, Error> {
        let programs = Programs {
            from_guest: pinned(pins, FROM_GUEST, key)?,
            to_guest: pinned(pins, TO_GUEST, key)?,
            taken_over: true,
        };
        let mut used = BTreeSet::new();
        for program in [&programs.from_guest, &programs.to_guest] {
            let info = program.info().map_err(failed)?;
            used.extend(info.map_ids().map_err(failed)?.unwrap_or_default());
        }
        Ok(are_ours(&used, pins)?.then_some(programs))
    };
    open().unwrap_or_else(|error| {
        warn!("the pinned programs cannot be taken over: {error}");
        None
    })
}

/// Whether maps that both programs together use are those that are pinned, each of them. Beside these there is room for one
/// packet's work, which came with the programs.
fn are_ours(used: &BTreeSet<u32>, pins: &Pins) -> Result<bool, Error> {
    let pinned = pins.map_ids()?;
    for id in used.difference(&pinned) {
        let info = MapInfo::from_id(*id).map_err(failed)?;
        if info.name_as_str().is_none_or(|name| MAPS.contains(&name)) {
            return Ok(false);
        }
    }
    Ok(used.is_superset(&pinned))
}

fn pinned(pins: &Pins, name: &'static str, key: &str) -> Result<SchedClassifier, Error> {
    SchedClassifier::from_pin(pins.program(name, key)).map_err(failed)
}

/// Leaves the loaded programs pinned, and no others.
fn load(object: &[u8], channel: EventChannel, config: &Config, pins: &Pins, key: &str) -> Result<(), Error> {
    let sizes = [
        ("flows", config.flow_capacity),
        ("verdicts", config.verdict_capacity),
        // A scope's share is taken of flows and verdicts together.
        (
            "turns",
            shares::with_claims(config.flow_capacity.saturating_mul(2)),
        ),
        ("redirects", config.redirect_capacity),
        ("returns", config.redirect_capacity),
        ("peers", config.peer_capacity),
        ("rules", config.rule_capacity),
        ("histograms", config.histogram_capacity),
    ];
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes {
        loader.map_max_entries(name, entries);
    }
    if channel == EventChannel::Ring {
        loader.map_max_entries("events", config.event_bytes);
    }
    for name in MAPS {
        loader.map_pin_path(name, pins.dir().join(name));
    }
    let mut object = loader.load(object).map_err(failed)?;
    for name in [FROM_GUEST, TO_GUEST] {
        let program: &mut SchedClassifier = object
            .program_mut(name)
            .ok_or_else(|| failed(format!("no program `{name}`")))?
            .try_into()
            .map_err(|e: ProgramError| failed(e))?;
        program.load().map_err(failed)?;
    }
    // Only now: what is on the vifs has its own hold on the earlier ones, and a load that fails leaves all as it is.
    pins.remove_programs()?;
    for name in [FROM_GUEST, TO_GUEST] {
        if let Some(program) = object.program_mut(name) {
            program.pin(pins.program(name, key)).map_err(failed)?;
        }
    }
    Ok(())
}

/// What carries events: of maps that are there already, what they were made for.
fn channel(wanted: EventChannel, pins: &Pins) -> Result<EventChannel, Error> {
    let ring = match pins.map_type("events") {
        Some(kind) => kind == MapType::RingBuf,
        None => match wanted {
            EventChannel::Ring => true,
            EventChannel::PerfArray => false,
            EventChannel::Auto => is_map_supported(MapType::RingBuf).map_err(failed)?,
        },
    };
    Ok(if ring {
        EventChannel::Ring
    } else {
        EventChannel::PerfArray
    })
}

fn failed(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::load(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the loader would put into such a section decides how the program goes, and would have to be in its key.
    #[test]
    fn the_objects_have_no_data_of_their_own() {
        for object in [WITH_RING, WITH_PERF] {
            for section in [".rodata", ".data", ".bss", ".kconfig"] {
                let name = [section.as_bytes(), b"\0"].concat();
                assert!(
                    !object.windows(name.len()).any(|bytes| bytes == name),
                    "{section}: see `key`"
                );
            }
        }
    }

    #[test]
    fn a_key_is_of_one_object() {
        let (ring, perf) = (key(WITH_RING), key(WITH_PERF));
        assert_ne!(ring, perf);
        assert_eq!(ring, key(WITH_RING));
        let mut other = WITH_RING.to_vec();
        *other.last_mut().unwrap() ^= 1;
        assert_ne!(ring, key(&other));
        assert_eq!(ring.len(), 32);
    }
}
