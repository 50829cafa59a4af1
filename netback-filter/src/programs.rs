// SPDX-License-Identifier: GPL-3.0-only
//! The object file in the kernel: maps made or taken over, programs loaded.

use std::error::Error as StdError;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::MapType;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use aya::sys::is_map_supported;
use aya::{Ebpf, EbpfLoader};

use crate::datapath::Config;
use crate::error::Error;
use crate::events::EventChannel;
use crate::netlink::Hook;
use crate::pins::{MAPS, Pins};

static WITH_RING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netback.bpf.o"));
static WITH_PERF: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netback-perf.bpf.o"));

/// The loaded programs.
pub(crate) struct Programs {
    object: Ebpf,
    from_guest: OwnedFd,
    to_guest: OwnedFd,
}

impl Programs {
    /// Loads both programs over the pinned maps; those that are missing are made and pinned.
    pub(crate) fn load(config: &Config, pins: &Pins) -> Result<Self, Error> {
        let sizes = [
            ("flows", config.flow_capacity),
            ("verdicts", config.verdict_capacity),
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
        let object = match channel(config.events, pins)? {
            EventChannel::PerfArray => WITH_PERF,
            EventChannel::Auto | EventChannel::Ring => {
                loader.map_max_entries("events", config.event_bytes);
                WITH_RING
            }
        };
        for name in MAPS {
            loader.map_pin_path(name, pins.dir().join(name));
        }
        let mut object = loader.load(object).map_err(failed)?;
        Ok(Self {
            from_guest: descriptor(&mut object, "from_guest")?,
            to_guest: descriptor(&mut object, "to_guest")?,
            object,
        })
    }

    pub(crate) fn descriptor(&self, hook: Hook) -> &OwnedFd {
        match hook {
            Hook::Ingress => &self.from_guest,
            Hook::Egress => &self.to_guest,
        }
    }

    /// The program for one side of an interface.
    pub(crate) fn of(&mut self, side: TcAttachType) -> Result<&mut SchedClassifier, Error> {
        let name = match side {
            TcAttachType::Egress => "to_guest",
            _ => "from_guest",
        };
        program(&mut self.object, name)
    }
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
    Error::Load { source: error.into() }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    object
        .program_mut(name)
        .ok_or_else(|| failed(format!("no program `{name}`")))?
        .try_into()
        .map_err(|e: ProgramError| failed(e))
}

fn descriptor(object: &mut Ebpf, name: &str) -> Result<OwnedFd, Error> {
    let program = program(object, name)?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?;
    fd.as_fd().try_clone_to_owned().map_err(failed)
}
