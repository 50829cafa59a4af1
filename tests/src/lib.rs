// SPDX-License-Identifier: GPL-3.0-only
//! Nested Xen as a test rig: a machine run by KVM or Bochs, Xen on it (with altp2m, unless the machine is to have an AMD processor),
//! dom0 and two PVH domUs, and a way to run programs in each of them that needs no network of theirs.
//!
//! ```no_run
//! # fn main() -> xmesh_rig::Result<()> {
//! let rig = xmesh_rig::Rig::up(&xmesh_rig::RigConfig::default())?;
//! println!("{}", rig.check("web1", &["curl", "-s", "http://10.0.0.12"])?);
//! rig.down()?;
//! # Ok(())
//! # }
//! ```

pub mod agent;
mod backend;
mod cache;
pub mod chroot;
mod command;
pub mod debian;
mod domain;
mod error;
mod image;
pub mod packages;
pub mod programs;
mod progress;
mod rig;
pub mod setup;
mod state;
mod xen;

pub use agent::client::{Discard, Output as Sink, Sender, SessionError};
pub use backend::{Backend, Cpu};
pub use cache::folder as cache_folder;
pub use domain::DomainSpec;
pub use error::{Result, RigError};
pub use image::Archive as Initramfs;
pub use progress::Progress;
pub use rig::{Domain, Job, Output, Rig, RigConfig};
pub use xen::Xen;
