// SPDX-License-Identifier: GPL-3.0-only
//! Which interfaces of dom0 are a guest's, and that the datapath is on each.
//!
//! Xenstore names them; but a name is no proof. A vif that was made anew has the name of the one before it, so what counts is
//! the index that the datapath is attached to. And one that somebody renamed is still the guest's.
//!
//! An HVM guest has an emulated NIC beside each vif until its drivers take the vif: `vifN.M-emu`, made by qemu.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netback_filter::{AttachedVif, Datapath, Error as DatapathError, VifConfig};
use policyd_api::Vif;
use xen_bindings::store::Vif as Backend;

use crate::registry::lock;

/// What the toolstack calls the emulated NIC: its vif's name and this.
const EMULATED: &str = "-emu";

/// How often it is looked for what is left of vifs that are gone, where no link is told to have gone.
const PRUNED: Duration = Duration::from_secs(10);

/// The interfaces of this host at one moment.
pub struct Links {
    /// By index.
    interfaces: Vec<(u32, String)>,
    /// Those under the datapath.
    attached: Vec<AttachedVif>,
}

/// Puts the datapath on the interfaces of guests.
pub struct Cover {
    datapath: Arc<Mutex<Datapath>>,
    /// Interfaces that the datapath could not be attached to, so that each is logged once.
    refused: BTreeSet<String>,
    /// Why the host could not be looked at, the last time.
    unseen: Option<String>,
    /// When what is left of vifs was last looked for.
    pruned: Option<Instant>,
}

/// One interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    config: VifConfig,
    mac: Option<String>,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The datapath is on it.
    Covered,
    /// It is there without the datapath.
    Bare,
    /// Xenstore names it, and it is not there (yet).
    Missing,
}

impl Cover {
    /// By this datapath.
    pub fn new(datapath: Arc<Mutex<Datapath>>) -> Cover {
        Cover {
            datapath,
            refused: BTreeSet::new(),
            unseen: None,
            pruned: None,
        }
    }

    /// Looks at the host. Where that fails nothing counts as attached: all is attached anew, which leaves no gap. `changed`: links
    /// came or went, so that something may be left of some that are gone.
    pub fn look(&mut self, changed: bool) -> Links {
        let attached = {
            let mut datapath = lock(&self.datapath);
            let prunes = changed || self.pruned.is_none_or(|at| at.elapsed() >= PRUNED);
            if prunes {
                self.pruned = Some(Instant::now());
            }
            if prunes && datapath.prune().is_err() {
                log::debug!("vifs that are gone could not be forgotten; trying again with the next look");
            }
            datapath.attached()
        };
        let interfaces = nix::net::if_::if_nameindex().map(|all| {
            all.iter()
                .map(|one| (one.index(), one.name().to_string_lossy().into_owned()))
                .collect()
        });
        let why = match (&attached, &interfaces) {
            (Err(e), _) => Some(e.to_string()),
            (_, Err(e)) => Some(format!("the interfaces: {e}")),
            _ => None,
        };
        if let Some(why) = why.as_ref().filter(|why| self.unseen.as_ref() != Some(why)) {
            log::error!("what the datapath is on cannot be seen ({why}); attaching it again");
        }
        self.unseen = why;
        Links {
            interfaces: interfaces.unwrap_or_default(),
            attached: attached.unwrap_or_default(),
        }
    }

    /// Puts the datapath on every interface of the guest `name` that does not have it. Returns all of them, and whether one was
    /// covered now. `lives`: whether there is a guest with this scope.
    pub fn cover(
        &mut self,
        links: &Links,
        (scope, guest): (u32, &str),
        backends: &[Backend],
        lives: impl Fn(u32) -> bool,
    ) -> (Vec<Vif>, bool) {
        let mut news = false;
        let vifs = links.of(scope, backends, lives).into_iter().map(|interface| {
            let attached = interface.standing == Standing::Bare && self.attach(guest, &interface);
            news |= attached;
            Vif {
                covered: attached || interface.standing == Standing::Covered,
                name: interface.name,
                mac: interface.mac,
            }
        });
        (vifs.collect(), news)
    }

    fn attach(&mut self, guest: &str, interface: &Interface) -> bool {
        let name = &interface.name;
        match lock(&self.datapath).attach(name, interface.config) {
            Ok(()) => {
                log::info!("{guest}: {name} is covered");
                self.refused.remove(name);
                true
            }
            // It goes a moment before its node in xenstore.
            Err(DatapathError::NoInterface { .. }) => false,
            Err(e) => {
                if self.refused.insert(name.clone()) {
                    log::error!("{guest}: {name}: {e}");
                }
                false
            }
        }
    }
}

impl Links {
    /// The interfaces of one guest: those that xenstore names, with their emulated NICs, and what the datapath has of it besides.
    fn of(&self, scope: u32, backends: &[Backend], lives: impl Fn(u32) -> bool) -> Vec<Interface> {
        let mut found = Vec::new();
        let mut taken = BTreeSet::new();
        for backend in backends {
            let names = names(backend);
            let config = VifConfig {
                scope,
                mac: backend.mac.as_deref().and_then(mac),
            };
            let interface = |name: &str, standing| Interface {
                name: name.to_owned(),
                config,
                mac: backend.mac.clone(),
                standing,
            };
            let before = found.len();
            for (index, name) in self.interfaces.iter().filter(|(_, name)| names.contains(name)) {
                let attached = self.attached.iter().find(|vif| vif.ifindex == *index);
                // An interface stays its guest's whatever it is called.
                let others = attached.is_some_and(|vif| vif.config.scope != scope && lives(vif.config.scope));
                if !others && taken.insert(*index) {
                    let standing = match attached {
                        Some(vif) if vif.config == config => Standing::Covered,
                        _ => Standing::Bare,
                    };
                    found.push(interface(name, standing));
                }
            }
            let renamed = self.attached.iter().any(|vif| {
                vif.config == config && !taken.contains(&vif.ifindex) && !self.is_named(&vif.name, backends)
            });
            if found.len() == before && !renamed {
                found.push(interface(&backend.name, Standing::Missing));
            }
        }
        let others = self.attached.iter().filter(|vif| vif.config.scope == scope);
        found.extend(
            others
                .filter(|vif| !taken.contains(&vif.ifindex))
                .map(|vif| Interface {
                    name: vif.name.clone(),
                    config: vif.config,
                    mac: vif.config.mac.map(mac_text),
                    standing: Standing::Covered,
                }),
        );
        found
    }

    fn is_named(&self, name: &str, backends: &[Backend]) -> bool {
        backends.iter().any(|b| names(b).iter().any(|n| n == name))
    }
}

/// What interfaces of this back end may be called. The toolstack renames one that was made by its number to its `vifname=`.
fn names(backend: &Backend) -> [String; 4] {
    let numbered = format!("vif{}.{}", backend.domid, backend.handle);
    let emulated = [&backend.name, &numbered].map(|name| format!("{name}{EMULATED}"));
    let [first, second] = emulated;
    [backend.name.clone(), numbered, first, second]
}

/// A MAC address as xenstore has it.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = text.split(':').map(|b| u8::from_str_radix(b, 16).ok());
    let mut mac = [0; 6];
    for byte in &mut mac {
        *byte = bytes.next()??;
    }
    bytes.next().is_none().then_some(mac)
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests;
