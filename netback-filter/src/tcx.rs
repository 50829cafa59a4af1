// SPDX-License-Identifier: GPL-3.0-only
//! Our pair of TCX links on an interface (Linux 6.6 and newer).
//!
//! An open link ends with the process that holds it; a pinned one stays, and goes with the interface. So each is pinned
//! the moment it is made, under the interface's index: names change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;

use crate::error::Error;
use crate::programs::Programs;
use crate::sys;

const PREFIX: &str = "tcx-";
const SIDES: [(TcAttachType, &str); 2] = [
    (TcAttachType::Ingress, "ingress"),
    (TcAttachType::Egress, "egress"),
];

/// The links of one interface in the network namespace of the calling thread.
pub(crate) struct Tcx<'a> {
    pins: &'a Path,
    ifindex: u32,
    name: &'a str,
}

impl<'a> Tcx<'a> {
    /// `pins`: the pin directory.
    pub(crate) fn new(pins: &'a Path, ifindex: u32, name: &'a str) -> Self {
        Self { pins, ifindex, name }
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error {
        let interface = self.name.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ENODEV) => Error::NoInterface {
                interface: interface.clone(),
            },
            _ => Error::Tc {
                interface: interface.clone(),
                what,
                source,
            },
        }
    }

    fn pin(&self, side: &str) -> PathBuf {
        self.pins.join(format!("{PREFIX}{}-{side}", self.ifindex))
    }

    /// Whether the kernel has TCX on this interface.
    pub(crate) fn is_possible(&self) -> bool {
        SchedClassifier::query_tcx(self.name, TcAttachType::Ingress).is_ok()
    }

    /// Whether both links are on the interface: a pin alone may be of one that somebody took off.
    pub(crate) fn is_attached(&self) -> Result<bool, Error> {
        for (side, name) in SIDES {
            let Some(link) = open(&self.pin(name)).map_err(self.failed("open a pinned link"))? else {
                return Ok(false);
            };
            if !self.is_on(&link, side)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is any link of ours, on the interface or not.
    pub(crate) fn has_pins(&self) -> bool {
        SIDES.iter().any(|(_, name)| self.pin(name).exists())
    }

    fn is_on(&self, link: &FdLink, side: TcAttachType) -> Result<bool, Error> {
        let info = link
            .info()
            .map_err(|e| self.failed("read a pinned link")(link_error(e)))?;
        let (_, programs) = SchedClassifier::query_tcx(self.name, side)
            .map_err(|e| self.failed("list the TCX programs")(program_error(e)))?;
        Ok(programs.iter().any(|program| program.id() == info.program_id()))
    }

    /// Whether programs of others are at the ingress hook.
    pub(crate) fn has_others_at_ingress(&self) -> Result<bool, Error> {
        let side = TcAttachType::Ingress;
        // A kernel without TCX.
        let Ok((_, programs)) = SchedClassifier::query_tcx(self.name, side) else {
            return Ok(false);
        };
        let ours = match open(&self.pin("ingress")).map_err(self.failed("open a pinned link"))? {
            Some(link) => usize::from(self.is_on(&link, side)?),
            None => 0,
        };
        Ok(programs.len() > ours)
    }

    /// Sets both links, before all others that are there, or gives those that are there these programs: no packet passes
    /// between the old program and the new one.
    pub(crate) fn attach(&self, programs: &mut Programs) -> Result<(), Error> {
        for (side, name) in SIDES {
            let program = programs.of(side);
            let pin = self.pin(name);
            if let Some(link) = open(&pin).map_err(self.failed("open a pinned link"))? {
                if self.is_on(&link, side)? {
                    exchange(program, link).map_err(self.failed("exchange a TCX program"))?;
                    continue;
                }
                // Taken off by somebody else: such a link cannot be put back.
                remove(&pin).map_err(self.failed("remove the pin of a dead link"))?;
            }
            self.add(program, side, &pin)
                .map_err(self.failed("attach a TCX link"))?;
        }
        Ok(())
    }

    fn add(&self, program: &mut SchedClassifier, side: TcAttachType, pin: &Path) -> io::Result<()> {
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(self.name, side, order)
            .map_err(program_error)?;
        let link = FdLink::try_from(program.take_link(id).map_err(program_error)?).map_err(link_error)?;
        link.pin(pin).map(drop).map_err(io::Error::other)
    }

    /// Takes both off. Returns whether there were any.
    pub(crate) fn detach(&self) -> Result<bool, Error> {
        let mut found = false;
        for (_, name) in SIDES {
            let pin = self.pin(name);
            if pin.exists() {
                sys::detach_pinned_link(&pin).map_err(self.failed("remove a TCX link"))?;
            }
            found |= remove(&pin).map_err(self.failed("remove the pin of a link"))?;
        }
        Ok(found)
    }
}

/// Removes pins of interfaces that are gone. `is_there` is asked by index.
pub(crate) fn prune(pins: &Path, is_there: impl Fn(u32) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(pins)? {
        let entry = entry?;
        let name = entry.file_name();
        let index = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok());
        if index.is_some_and(|index| !is_there(index)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn open(pin: &Path) -> io::Result<Option<FdLink>> {
    match PinnedLink::from_pin(pin).map_err(link_error) {
        Ok(link) => Ok(Some(link.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(pin: &Path) -> io::Result<bool> {
    match fs::remove_file(pin) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The pin stays where it is, and so does the link.
fn exchange(program: &mut SchedClassifier, link: FdLink) -> io::Result<()> {
    let link = link.try_into().map_err(link_error)?;
    let id = program.attach_to_link(link).map_err(program_error)?;
    let link = program.take_link(id).map_err(program_error)?;
    FdLink::try_from(link).map(drop).map_err(link_error)
}

/// What the kernel said, for the remedy that goes with it.
fn program_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error,
        error => io::Error::other(error),
    }
}

fn link_error(error: LinkError) -> io::Error {
    match error {
        LinkError::SyscallError(SyscallError { io_error, .. }) => io_error,
        error => io::Error::other(error),
    }
}
