// SPDX-License-Identifier: GPL-3.0-only
//! Vifs as xenstore has them. It tells what changes, so nothing is read twice: a guest's vif is some ten messages, and they are wanted every second.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use xen_bindings::store::{
    INTRODUCE_DOMAIN, RELEASE_DOMAIN, Store as Xenstore, VIF_BACKENDS, Vif as Backend, Watch,
};

/// Without any change they are read this often all the same.
const PERIOD: Duration = Duration::from_secs(30);

/// The vifs of guests.
pub struct Backends {
    /// None where xenstore gives none: they are read each time.
    watch: Option<Watch>,
    known: BTreeMap<u16, (Vec<Backend>, Instant)>,
}

impl Backends {
    /// Of no guest yet.
    pub fn new() -> Backends {
        // Domains that come and go are told of on the way: whoever waits for a change looks at them, too.
        let watch = Watch::new(&[VIF_BACKENDS, INTRODUCE_DOMAIN, RELEASE_DOMAIN])
            .inspect_err(|e| log::warn!("no watch on vifs ({e}); they are read with every look instead"));
        Backends {
            watch: watch.ok(),
            known: BTreeMap::new(),
        }
    }

    /// What can be read once something changed.
    pub fn woken_by(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Takes what xenstore told since the last look. `all`: there is another reason to read all of them anew.
    pub fn hear(&mut self, all: bool) {
        self.known.retain(|_, (_, read)| !all && read.elapsed() < PERIOD);
        loop {
            let Some(watch) = &self.watch else {
                self.known.clear();
                return;
            };
            match watch.next_change() {
                Ok(Some(path)) => match guest_of(&path) {
                    Changed::Vifs(id) => drop(self.known.remove(&id)),
                    Changed::All => self.known.clear(),
                },
                Ok(None) => return,
                Err(e) => {
                    log::warn!("vifs are not watched any more ({e}); they are read with every look instead");
                    self.watch = None;
                }
            }
        }
    }

    /// Those of a guest. Where they cannot be read it has none, until the next look.
    pub fn of(&mut self, xenstore: &Xenstore, id: u16) -> &[Backend] {
        use std::collections::btree_map::Entry;
        match self.known.entry(id) {
            Entry::Occupied(known) => &known.into_mut().0,
            Entry::Vacant(new) => match xenstore.vifs_of(u32::from(id)) {
                Ok(vifs) => &new.insert((vifs, Instant::now())).0,
                Err(e) => {
                    log::debug!("vifs of domain {id}: {e}");
                    &[]
                }
            },
        }
    }
}

/// Whose vifs may be others now.
#[derive(Debug, PartialEq, Eq)]
enum Changed {
    Vifs(u16),
    All,
}

fn guest_of(path: &str) -> Changed {
    let id = path
        .strip_prefix(VIF_BACKENDS)
        .and_then(|rest| rest.split('/').nth(1)?.parse().ok());
    id.map_or(Changed::All, Changed::Vifs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_of_one_guest_or_of_any() {
        for (path, of) in [
            ("/local/domain/0/backend/vif/7", Changed::Vifs(7)),
            ("/local/domain/0/backend/vif/7/0/state", Changed::Vifs(7)),
            ("/local/domain/0/backend/vif", Changed::All),
            ("@releaseDomain", Changed::All),
        ] {
            assert_eq!(guest_of(path), of, "{path}");
        }
    }
}
