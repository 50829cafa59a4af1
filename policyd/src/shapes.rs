// SPDX-License-Identifier: GPL-3.0-only
//! Policy as shaping of vifs: which classes a guest's vifs have, and how a flow of a class is marked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use netback_filter::{
    Class, Datapath, Direction, Dscp, Error as DatapathError, Mark, Mirror, Priority, Rate, ShapeClass,
    ShapeError, Shaping, Share,
};
use policy::{Decision, Ruleset, VmId};

use crate::daemon::DaemonError;
use crate::registry::lock;
use crate::world::World;

/// Why vifs are not shaped as policy says, by vif. Shared with the API.
pub type Problems = Arc<Mutex<BTreeMap<String, String>>>;

/// How a flow is marked at the vif of one of its guests. `peer`: its other end.
pub fn mark(world: &World, decision: &Decision, origin: Direction, peer: IpAddr) -> Mark {
    let class = decision.class.and_then(|id| world.rules.class(id));
    Mark {
        class: class.as_ref().and_then(datapath_class),
        dscp: class.and_then(|class| Dscp::new(class.treatment.dscp?.value())),
        mirror: mirror(world, decision, origin, peer),
    }
}

/// Who gets copies. Of a flow between guests they are made at the vif of the one that opens it, once; who gets them is told
/// nothing twice that it is an end of.
fn mirror(world: &World, decision: &Decision, origin: Direction, peer: IpAddr) -> Option<Mirror> {
    let said = decision.mirror?;
    let peer = world.vm_at(peer).map(|vm| vm.scope);
    if origin == Direction::ToGuest && peer.is_some() {
        return None;
    }
    let gets = world
        .vms()
        .iter()
        .find(|vm| world.rules.gets_copies(&vm.id, said.to))?;
    if peer == Some(gets.scope) {
        return None;
    }
    Mirror::new(gets.scope, Share::new(said.share.hundredths())?)
}

/// A class as the datapath names it: its number in the ruleset is the index.
fn datapath_class(class: &policy::Class<'_>) -> Option<Class> {
    Class::new(
        u16::try_from(class.id.0).ok()?,
        priority(class.treatment.priority),
    )
}

fn priority(priority: policy::Priority) -> Priority {
    match priority {
        policy::Priority::Realtime => Priority::Realtime,
        policy::Priority::Interactive => Priority::Interactive,
        policy::Priority::Default => Priority::Default,
        policy::Priority::Bulk => Priority::Bulk,
    }
}

fn rate(rate: policy::Rate) -> Option<Rate> {
    Rate::from_bits(rate.bits())
}

/// How the vifs of a guest are to be shaped.
pub fn shaping(rules: &Ruleset, vm: &VmId) -> Shaping {
    let totals = rules.totals_of(vm).map(|said| said.value).unwrap_or_default();
    let vm = &rules.known(vm);
    let classes = rules.classes_of(vm).filter_map(|class| {
        let bandwidth = class.treatment.bandwidth;
        Some(ShapeClass {
            class: datapath_class(&class)?,
            guarantee: bandwidth.guarantee.and_then(rate),
            ceiling: bandwidth.ceiling.and_then(rate),
        })
    });
    Shaping {
        to_guest: totals.to_guest.and_then(rate),
        from_guest: totals.from_guest.and_then(rate),
        classes: classes.collect(),
    }
}

/// Whether policy can be kept at every vif of these guests.
///
/// # Errors
/// [`DaemonError::Invalid`] for the first guest of which more is promised than its total.
pub fn check<'a>(rules: &Ruleset, vms: impl Iterator<Item = &'a VmId>) -> Result<(), DaemonError> {
    for vm in vms {
        shaping(rules, vm)
            .check()
            .map_err(|e| DaemonError::Invalid(format!("{}: {e}", vm.name)))?;
    }
    Ok(())
}

/// What each vif has, by index.
pub struct Shapes {
    applied: BTreeMap<u32, Shaping>,
    problems: Problems,
}

impl Shapes {
    /// Nothing is known of any vif: what an earlier daemon left is made right by the first [`Shapes::apply`].
    pub fn new(problems: Problems) -> Shapes {
        Shapes {
            applied: BTreeMap::new(),
            problems,
        }
    }

    /// Shapes every covered vif as policy says, where that is not how it is.
    ///
    /// # Errors
    /// For the first vif that could be shaped before and cannot be now; the others are.
    pub fn apply<'a>(
        &mut self,
        datapath: &mut Datapath,
        rules: &Ruleset,
        vm: impl Fn(u32) -> Option<&'a VmId>,
    ) -> Result<(), DaemonError> {
        let vifs = datapath.attached()?;
        self.applied
            .retain(|index, _| vifs.iter().any(|vif| vif.ifindex == *index));
        lock(&self.problems).retain(|name, _| vifs.iter().any(|vif| vif.name == *name));
        let mut first = Ok(());
        for vif in &vifs {
            // A guest that is not known yet, or no more, keeps what its vifs have.
            let Some(vm) = vm(vif.config.scope) else { continue };
            let wanted = shaping(rules, vm);
            if self.applied.get(&vif.ifindex) == Some(&wanted) {
                continue;
            }
            match shape(datapath, &vif.name, &wanted) {
                Ok(()) => {
                    lock(&self.problems).remove(&vif.name);
                    self.applied.insert(vif.ifindex, wanted);
                }
                Err(DatapathError::NoInterface { .. }) => {}
                Err(e) => {
                    self.applied.remove(&vif.ifindex);
                    let news = lock(&self.problems).insert(vif.name.clone(), e.to_string());
                    if news.as_ref().is_none_or(|before| *before != e.to_string()) {
                        log::error!("{}: {e}", vm.name);
                    }
                    // A vif that had its trouble before is not this change's.
                    if first.is_ok() && news.is_none() {
                        first = Err(DaemonError::Invalid(format!("{}: {e}", vm.name)));
                    }
                }
            }
        }
        first
    }
}

/// Where more is promised than there is, a guest that came after the policy has its totals and ceilings at least; where the kernel has no
/// classes, its totals.
fn shape(datapath: &mut Datapath, vif: &str, wanted: &Shaping) -> Result<(), DatapathError> {
    let result = datapath.shape(vif, wanted);
    let mut less = wanted.clone();
    match &result {
        Err(DatapathError::Shape {
            source: ShapeError::Oversold { .. },
            ..
        }) => less.classes.iter_mut().for_each(|class| class.guarantee = None),
        Err(DatapathError::NoClasses { .. }) => less.classes.clear(),
        _ => return result,
    }
    datapath.shape(vif, &less)?;
    result
}

#[cfg(test)]
mod tests {
    use policy::{Document, Endpoint, Flow, Protocol};

    use super::*;

    const TEXT: &str = "policy: a
qos:
  vms: { \"web*\": { to_guest: 100mbit } }
  classes:
  - { name: cache, from: { vm: web1 }, to: { vm: db1 }, bandwidth: { guarantee: 60mbit }, priority: realtime, dscp: ef }
  - { name: rest, from: { vm: web2 }, to: any, bandwidth: { guarantee: 50mbit, ceiling: 90mbit }, priority: bulk }
";

    fn rules(text: &str) -> Ruleset {
        let document = Document::parse("test.yaml", text).expect("a sound document");
        Ruleset::compile(&[document], 7).expect("compiles")
    }

    fn vm(name: &str) -> VmId {
        VmId::new(name, [0; 16])
    }

    #[test]
    fn a_vif_has_the_classes_that_its_guest_may_be_in() {
        let rules = rules(TEXT);
        let web1 = shaping(&rules, &vm("web1"));
        assert_eq!(web1.to_guest, Rate::from_bits(100_000_000));
        assert_eq!(web1.from_guest, None);
        // `to: any` may be web1, too.
        let indices = |shaping: &Shaping| {
            shaping
                .classes
                .iter()
                .map(|c| c.class.index())
                .collect::<Vec<_>>()
        };
        assert_eq!(indices(&web1), [Some(0), Some(1)]);
        assert_eq!(indices(&shaping(&rules, &vm("other"))), [Some(1)]);
    }

    #[test]
    fn a_flow_is_marked_as_its_class_says() {
        let rules = rules(TEXT);
        let (web1, db1) = (vm("web1"), vm("db1"));
        let mut flow = Flow {
            protocol: Protocol::TCP,
            source: Endpoint::guest(&web1, [10, 0, 0, 1].into()),
            destination: Endpoint::guest(&db1, [10, 0, 0, 2].into()),
            port: 80,
        };
        let world = World::new(Arc::new(rules), Vec::new());
        let mark = |flow: &Flow<'_>| {
            let decision = world.rules.decide(flow);
            mark(&world, &decision, Direction::FromGuest, [10, 0, 0, 2].into())
        };
        let marked = mark(&flow);
        assert_eq!(marked.class, Class::new(0, Priority::Realtime));
        assert_eq!(marked.dscp.map(Dscp::value), Some(46));
        flow.source = flow.destination;
        assert_eq!(mark(&flow), Mark::NONE);
    }

    #[test]
    fn what_is_oversold_for_a_guest_is_refused() {
        let rules = rules(TEXT);
        assert!(check(&rules, [vm("db1"), vm("web3")].iter()).is_ok());
        let error = check(&rules, [vm("db1"), vm("web1")].iter()).expect_err("110 of 100");
        let text = error.to_string();
        assert!(text.starts_with("web1: ") && text.contains("110Mbit"), "{text}");
    }
}
