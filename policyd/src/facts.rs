// SPDX-License-Identifier: GPL-3.0-only
//! What dom0 knows of guests beside their names: labels in xenstore, and what Xen says.
//!
//! A guest must not label itself. So a label counts only where dom0 alone can write its node and those above it that are for labels.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Facts, GuestType, Label, LabelFrom, MAX_LABELS};
use xen_bindings::domain::{DomainInfo, DomainType};
use xen_bindings::store::{Permissions, Store as Xenstore, StoreError, Watch};

/// Without any change labels are read this often all the same, and pools are looked up.
const PERIOD: Duration = Duration::from_secs(30);

/// What is read of xenstore.
trait Nodes {
    fn list(&self, path: &str) -> Result<Vec<String>, StoreError>;
    fn read(&self, path: &str) -> Result<Option<String>, StoreError>;
    fn permissions(&self, path: &str) -> Result<Option<Permissions>, StoreError>;
}

impl Nodes for Xenstore {
    fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        Xenstore::list(self, path)
    }

    fn read(&self, path: &str) -> Result<Option<String>, StoreError> {
        Xenstore::read(self, path)
    }

    fn permissions(&self, path: &str) -> Result<Option<Permissions>, StoreError> {
        Xenstore::permissions(self, path)
    }
}

/// Where dom0 says things of a domain; of a label that both have, the first counts: it is of this run, the other of the guest.
fn places(domid: u16, uuid: &str) -> [String; 2] {
    [
        format!("/local/domain/{domid}/xmesh"),
        format!("/vm/{uuid}/xmesh"),
    ]
}

/// The labels in these places, and what is wrong with what is no label.
fn labels(nodes: &impl Nodes, places: &[String]) -> Result<(Vec<Label>, Vec<String>), StoreError> {
    let (mut labels, mut wrong) = (Vec::new(), Vec::new());
    for place in places {
        let list = format!("{place}/labels");
        // Who may write where labels are may make or remove some.
        if !is_trusted(nodes, place, &mut wrong)? || !is_trusted(nodes, &list, &mut wrong)? {
            continue;
        }
        let mut keys = nodes.list(&list)?;
        keys.sort_unstable();
        if keys.len() > MAX_LABELS {
            wrong.push(format!(
                "{list}: {} labels, of which the first {MAX_LABELS} count; remove some",
                keys.len()
            ));
        }
        for key in keys.iter().take(MAX_LABELS) {
            let node = format!("{list}/{key}");
            if !is_trusted(nodes, &node, &mut wrong)? {
                continue;
            }
            let Some(value) = nodes.read(&node)? else {
                continue;
            };
            match Label::new(key, &value, LabelFrom::Xenstore(node.as_str().into())) {
                Ok(label) => labels.push(label),
                Err(e) => wrong.push(format!("{node}: {e}; it is ignored")),
            }
        }
    }
    Ok((labels, wrong))
}

/// Whether a node is there, and dom0 alone can write it.
fn is_trusted(nodes: &impl Nodes, node: &str, wrong: &mut Vec<String>) -> Result<bool, StoreError> {
    let Some(permissions) = nodes.permissions(node)? else {
        return Ok(false);
    };
    let trusted = permissions.is_dom0_alone();
    if !trusted {
        wrong.push(format!(
            "{node}: others than dom0 may write it, so it is no label and is ignored; \
             `xenstore-chmod {node} n0` takes that away"
        ));
    }
    Ok(trusted)
}

/// What is known of one domain.
struct Known {
    places: [String; 2],
    labels: Vec<Label>,
    /// They may be others by now.
    stale: bool,
    /// What was told of as wrong.
    told: BTreeSet<String>,
    facts: Arc<Facts>,
}

/// Learns what dom0 knows of guests.
pub struct Learner {
    /// None where xenstore gives none: it is looked each time.
    watch: Option<Watch>,
    domains: BTreeMap<u16, Known>,
    pools: BTreeMap<u32, Option<Box<str>>>,
    next: Instant,
}

impl Learner {
    /// One that knows of no domain.
    pub fn new() -> Learner {
        let watch = Watch::new(&[])
            .inspect_err(|e| log::warn!("no watch on labels ({e}); they are read with every look instead"));
        Learner {
            watch: watch.ok(),
            domains: BTreeMap::new(),
            pools: BTreeMap::new(),
            next: Instant::now() + PERIOD,
        }
    }

    /// What can be read once something changed.
    pub fn woken_by(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// Takes what xenstore told since the last look.
    pub fn hear(&mut self) {
        let mut all = self.watch.is_none();
        if self.next <= Instant::now() {
            self.next = Instant::now() + PERIOD;
            self.pools.clear();
            all = true;
        }
        for known in self.domains.values_mut().filter(|_| all) {
            known.stale = true;
        }
        loop {
            let Some(watch) = &self.watch else { return };
            match watch.next_change() {
                Ok(Some(path)) => {
                    let is_of = |known: &&mut Known| known.places.iter().any(|place| is_within(&path, place));
                    let changed = self.domains.values_mut().filter(is_of);
                    changed.for_each(|known| known.stale = true);
                }
                Ok(None) => return,
                Err(e) => {
                    log::warn!(
                        "labels are not watched any more ({e}); they are read with every look instead"
                    );
                    self.watch = None;
                }
            }
        }
    }

    /// What is known of a domain now; `None`: it is what was told before.
    pub fn learn(
        &mut self,
        xenstore: &Xenstore,
        id: u16,
        name: &str,
        info: &DomainInfo,
    ) -> Option<Arc<Facts>> {
        let pool = info.pool.and_then(|pool| self.pool(xenstore, pool));
        let is_new = !self.domains.contains_key(&id);
        if is_new {
            let known = Known {
                places: places(id, &policy::VmId::new("", info.uuid).uuid_text()),
                labels: Vec::new(),
                stale: true,
                told: BTreeSet::new(),
                facts: Arc::default(),
            };
            self.watch(&known.places);
            self.domains.insert(id, known);
        }
        let known = self.domains.get_mut(&id)?;
        if known.stale {
            match labels(xenstore, &known.places) {
                Ok((labels, wrong)) => {
                    for wrong in wrong {
                        if !known.told.contains(&wrong) {
                            log::warn!("{name}: {wrong}");
                            known.told.insert(wrong);
                        }
                    }
                    (known.labels, known.stale) = (labels, false);
                }
                // Those of before hold until they can be read.
                Err(e) => log::debug!("{name}: its labels cannot be read now: {e}"),
            }
        }
        let facts = Facts::new(Some(guest_type(info)), pool, known.labels.clone());
        if !is_new && *known.facts == facts {
            return None;
        }
        known.facts = Arc::new(facts);
        Some(Arc::clone(&known.facts))
    }

    /// The domain is gone.
    pub fn forget(&mut self, id: u16) {
        let Some(gone) = self.domains.remove(&id) else {
            return;
        };
        let Some(watch) = &self.watch else { return };
        for place in &gone.places {
            // While a guest reboots or moves there are two domains of one UUID.
            let wanted = self.domains.values().any(|known| known.places.contains(place));
            // A watch that cannot be removed tells of a domain that is not known.
            let _ = (!wanted).then(|| watch.remove(place));
        }
    }

    fn watch(&mut self, places: &[String]) {
        let Some(watch) = &self.watch else { return };
        for place in places {
            let watched = self.domains.values().any(|known| known.places.contains(place));
            if !watched && let Err(e) = watch.add(place) {
                log::warn!("labels are not watched ({e}); they are read with every look instead");
                self.watch = None;
                return;
            }
        }
    }

    fn pool(&mut self, xenstore: &Xenstore, pool: u32) -> Option<Box<str>> {
        let name = || Some(xenstore.pool_name(pool).ok()??.into());
        self.pools.entry(pool).or_insert_with(name).clone()
    }
}

/// Whether a path of xenstore is this node, or one below it.
fn is_within(path: &str, node: &str) -> bool {
    path.strip_prefix(node)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn guest_type(info: &DomainInfo) -> GuestType {
    match info.domain_type {
        DomainType::Pv => GuestType::Pv,
        DomainType::Pvh => GuestType::Pvh,
        DomainType::Hvm => GuestType::Hvm,
    }
}

#[cfg(test)]
mod tests {
    use xen_bindings::store::Permission;

    use super::*;

    /// Nodes by path, each with its value and who owns it; `w` after the owner: the guest may write.
    struct Tree(BTreeMap<String, (String, u32, bool)>);

    impl Tree {
        fn new(nodes: &[(&str, &str, u32, bool)]) -> Tree {
            let node = |(path, value, owner, writes): &(&str, &str, u32, bool)| {
                ((*path).to_owned(), ((*value).to_owned(), *owner, *writes))
            };
            Tree(nodes.iter().map(node).collect())
        }
    }

    impl Nodes for Tree {
        fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
            let below = self
                .0
                .keys()
                .filter_map(|node| node.strip_prefix(path)?.strip_prefix('/'));
            Ok(below
                .filter(|rest| !rest.contains('/'))
                .map(str::to_owned)
                .collect())
        }

        fn read(&self, path: &str) -> Result<Option<String>, StoreError> {
            Ok(self.0.get(path).map(|(value, ..)| value.clone()))
        }

        fn permissions(&self, path: &str) -> Result<Option<Permissions>, StoreError> {
            let of = |domid, write| Permission {
                domid,
                read: true,
                write,
            };
            let node = self.0.get(path);
            Ok(node.map(|(_, owner, writes)| Permissions::new(vec![of(*owner, false), of(5, *writes)])))
        }
    }

    fn read(nodes: &[(&str, &str, u32, bool)]) -> (Vec<String>, Vec<String>) {
        let places = places(5, "0f3a1c52-77aa-4b1e-9d10-ffee00112233");
        let (found, wrong) = labels(&Tree::new(nodes), &places).expect("is read");
        let facts = Facts::new(None, None, found);
        let shown = facts
            .labels()
            .iter()
            .map(|label| format!("{label} {}", label.from()));
        (shown.collect(), wrong)
    }

    const OF_RUN: &str = "/local/domain/5/xmesh";
    const OF_VM: &str = "/vm/0f3a1c52-77aa-4b1e-9d10-ffee00112233/xmesh";

    #[test]
    fn labels_of_this_run_beat_those_of_the_guest() {
        let (run, vm) = (format!("{OF_RUN}/labels"), format!("{OF_VM}/labels"));
        let (tier, of_vm, app) = (format!("{run}/tier"), format!("{vm}/tier"), format!("{vm}/app"));
        let (found, wrong) = read(&[
            (OF_RUN, "", 0, false),
            (&run, "", 0, false),
            (&tier, "front", 0, false),
            (OF_VM, "", 0, false),
            (&vm, "", 0, false),
            (&of_vm, "back", 0, false),
            (&app, "shop", 0, false),
        ]);
        assert_eq!(found, [format!("app=shop {app}"), format!("tier=front {tier}")]);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(read(&[]).0.is_empty());
    }

    #[test]
    fn a_guest_cannot_label_itself() {
        let run = format!("{OF_RUN}/labels");
        let (tier, app, zone) = (format!("{run}/tier"), format!("{run}/app"), format!("{run}/zone"));
        // Its own node, one that it may write, and one that is dom0's.
        let nodes = |top: bool, list: bool| {
            read(&[
                (OF_RUN, "", 0, top),
                (&run, "", 0, list),
                (&tier, "front", 5, false),
                (&app, "shop", 0, true),
                (&zone, "z1", 0, false),
            ])
        };
        let (found, wrong) = nodes(false, false);
        assert_eq!(found, [format!("zone=z1 {zone}")]);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong[0].starts_with(&app) && wrong[0].contains("xenstore-chmod"),
            "{wrong:?}"
        );
        // Where it may write above, it could have removed some, or given others' names to them.
        assert!(nodes(true, false).0.is_empty() && nodes(false, true).0.is_empty());
        let (found, wrong) = nodes(false, true);
        assert!(found.is_empty() && wrong.len() == 1, "{wrong:?}");
    }

    #[test]
    fn what_is_no_label_is_told_with_its_place() {
        let run = format!("{OF_RUN}/labels");
        let (tier, key) = (format!("{run}/tier"), format!("{run}/-x"));
        let (found, wrong) = read(&[
            (OF_RUN, "", 0, false),
            (&run, "", 0, false),
            (&tier, "front end", 0, false),
            (&key, "v", 0, false),
        ]);
        assert!(found.is_empty());
        assert!(
            wrong[0].starts_with(&format!("{key}: `-x` is not the key of a label; use ")),
            "{wrong:?}"
        );
        assert!(
            wrong[1].starts_with(&format!("{tier}: `front end` is not the value")),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_change_is_of_a_node_or_below_it() {
        assert!(is_within("/vm/a/xmesh", "/vm/a/xmesh") && is_within("/vm/a/xmesh/labels/b", "/vm/a/xmesh"));
        assert!(!is_within("/vm/a/xmesh2", "/vm/a/xmesh") && !is_within("/vm/a", "/vm/a/xmesh"));
    }
}
