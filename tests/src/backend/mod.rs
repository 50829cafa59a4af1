// SPDX-License-Identifier: GPL-3.0-only
//! What runs the machine that Xen runs on.

mod bochs;
mod bochs_build;
mod cpu;
mod kvm;

use crate::command::run;
use crate::error::{At, Result, RigError};
use crate::progress::Progress;
use crate::setup;
pub use cpu::Cpu;
use std::fmt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

/// A way to run Xen with hardware virtualisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// QEMU with KVM and nested VMX or SVM: the processor itself.
    Kvm,
    /// Bochs 3.0 built here, with two faults mended.
    Bochs,
    /// Bochs as Debian packages it: slower, and domUs have one vCPU.
    BochsPackaged,
}

/// A back end ready to be started: its programs are there.
pub(crate) struct Emulator {
    backend: Backend,
    cpu: Cpu,
    program: PathBuf,
}

/// The machine to run.
pub(crate) struct Machine {
    /// The rig's own folder, for logs and configuration.
    pub(crate) folder: PathBuf,
    /// What it boots from.
    pub(crate) iso: PathBuf,
    /// First disk: dom0's root. Never written to.
    pub(crate) dom0_root: PathBuf,
    /// Second disk: the root of every domU. Never written to.
    pub(crate) domu_root: PathBuf,
    /// The port of this host's loopback that leads to dom0's agent.
    pub(crate) port: u16,
}

/// Memory of the emulated machine, MiB: dom0, two domUs and as much again for tests' own.
const MEMORY: u32 = 2048;

impl Backend {
    /// vCPUs that a domU may have.
    pub fn vcpus(self) -> u32 {
        match self {
            Backend::Kvm | Backend::Bochs => 2,
            // An unmended Bochs starves Xen while a guest's second vCPU spins with interrupts off.
            Backend::BochsPackaged => 1,
        }
    }

    /// How much longer than on the fastest back end things may take: many times what they take on a
    /// quiet machine, since a busy one is no reason to fail, and a dead emulator is noticed anyway.
    pub(crate) fn slowness(self) -> u32 {
        match self {
            Backend::Kvm => 1,
            Backend::Bochs => 15,
            Backend::BochsPackaged => 40,
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Kvm => "kvm",
            Backend::Bochs => "bochs",
            Backend::BochsPackaged => "bochs-packaged",
        })
    }
}

impl FromStr for Backend {
    type Err = RigError;

    fn from_str(name: &str) -> Result<Backend> {
        [Backend::Kvm, Backend::Bochs, Backend::BochsPackaged]
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or_else(|| RigError::Backend(format!("no back end {name:?}: kvm, bochs or bochs-packaged")))
    }
}

impl Emulator {
    /// Makes a back end ready: the one asked for, else the first that proves to work.
    pub(crate) fn ready(wanted: Option<Backend>, cpu: Cpu, progress: &Progress) -> Result<Emulator> {
        match wanted {
            Some(Backend::Kvm) => Emulator::kvm(cpu, progress),
            Some(Backend::Bochs) => Emulator::bochs(cpu, progress),
            Some(Backend::BochsPackaged) => Emulator::bochs_packaged(cpu, progress),
            None => Emulator::kvm(cpu, progress)
                .or_else(|reason| {
                    progress.say(format!("not KVM: {reason}"));
                    Emulator::bochs(cpu, progress)
                })
                .or_else(|reason| {
                    progress.say(format!("not our own Bochs: {reason}"));
                    Emulator::bochs_packaged(cpu, progress)
                }),
        }
    }

    fn kvm(cpu: Cpu, progress: &Progress) -> Result<Emulator> {
        kvm::cheap_probe(cpu)?;
        setup::ensure(setup::QEMU, progress)?;
        kvm::probe(cpu)?;
        Ok(Emulator {
            backend: Backend::Kvm,
            cpu,
            program: kvm::PROGRAM.into(),
        })
    }

    fn bochs(cpu: Cpu, progress: &Progress) -> Result<Emulator> {
        setup::ensure(setup::BOCHS_BUILT, progress)?;
        Ok(Emulator {
            backend: Backend::Bochs,
            cpu,
            program: bochs_build::program(progress)?,
        })
    }

    fn bochs_packaged(cpu: Cpu, progress: &Progress) -> Result<Emulator> {
        if cpu == Cpu::Amd {
            return Err(RigError::Backend(
                "Debian's Bochs starves Xen on an AMD processor: use bochs or kvm".to_owned(),
            ));
        }
        setup::ensure(setup::BOCHS_PACKAGED, progress)?;
        run(Command::new("bochs").arg("--help"))?;
        Ok(Emulator {
            backend: Backend::BochsPackaged,
            cpu,
            program: "bochs".into(),
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Starts the machine, apart from this process: it goes on when we end.
    pub(crate) fn start(&self, machine: &Machine) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.program);
        match self.backend {
            Backend::Kvm => kvm::configure(&mut command, self.cpu, machine),
            Backend::Bochs | Backend::BochsPackaged => {
                bochs::configure(&mut command, self.backend, self.cpu, machine)?;
            }
        }
        let log_path = machine.folder.join("emulator.log");
        let log = std::fs::File::create(&log_path).at(&log_path)?;
        command
            .process_group(0)
            .current_dir(&machine.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().at(&log_path)?)
            .stderr(log)
            .spawn()
            .map_err(|source| RigError::Start {
                program: self.program.display().to_string(),
                source,
            })
    }
}
