// SPDX-License-Identifier: GPL-3.0-only
//! The World: what the trap path knows, as one immutable snapshot.
//!
//! The enforcer builds a new World for every change and swaps it in; the gate loads it with one atomic operation.
//! So a decision sees one generation of policy and one state of the guests, and waits for nobody.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use netback_filter::Lock;
use policy::{
    Decider, Decision, Endpoint, Flow, Measured, Owner, Protocol, Refuse, Ruleset, Side, Verdict, VmId,
};
use vmi_xen::observe::Subject;

use crate::measures::{Results, Runs};
use crate::present::NO_LOGIN;
use crate::routes::{Condition, Routes};

/// One state of policy and guests.
pub struct World {
    /// The policy in force.
    pub rules: Arc<Ruleset>,
    /// Its routes among the guests.
    pub routes: Routes,
    /// The policy is lost: what the vifs have from before holds, and nothing is written there.
    pub holds: bool,
    vms: Vec<Vm>,
    by_address: HashMap<IpAddr, usize>,
    by_scope: HashMap<u32, usize>,
    by_uuid: HashMap<[u8; 16], usize>,
    /// Some rule asks what programs processes run.
    asks_measured: bool,
}

/// A guest as policy sees it.
#[derive(Clone)]
pub struct Vm {
    /// Name and UUID, and what else dom0 and policy say of it. [`World::new`] adds what policy says.
    pub id: VmId,
    /// Its scope at the vifs: the domain id.
    pub scope: u32,
    /// Addresses that dom0 gave it. No other guest can claim them.
    pub configured: Vec<IpAddr>,
    /// Those that its kernel says its interfaces have.
    pub claimed: Vec<IpAddr>,
    /// Who listens in it.
    pub listeners: Arc<Listeners>,
    /// Traps tell of its connections before their first packet.
    pub trapped: bool,
    /// It has more than one network: it may translate the addresses of one (a container's) to those that it has at its vifs. What
    /// traps tell is then told under other addresses than the vif sees.
    pub translates: bool,
    /// Its lock holds it to the addresses that dom0 gave it. [`World::new`] sees to it.
    pub locked: bool,
    /// Its processes cannot be read: nothing will ever tell who sends.
    pub opaque: bool,
    /// MAC addresses of its vifs, each with the addresses that dom0 gave that vif.
    pub macs: Vec<(Mac, Vec<IpAddr>)>,
    /// Its listeners were read, and traps have told of each that came or went since.
    pub counted: bool,
    /// It is paused.
    pub paused: bool,
    /// What its processes were found to run: of all guests, and as it is now, for that changes with every process.
    pub measured: Arc<Results>,
}

/// A MAC address.
pub type Mac = [u8; 6];

/// Listening TCP sockets and bound UDP sockets, by protocol and port.
#[derive(Default, Clone)]
pub struct Listeners {
    /// Of one port the latest comes last.
    by_port: HashMap<(Protocol, u16), Vec<Listener>>,
    by_socket: HashMap<u64, (Protocol, u16)>,
}

/// Sockets that share a port and are remembered: with SO_REUSEPORT a server has one a CPU.
const MAX_SHARING: usize = 128;

/// One listening socket.
#[derive(Clone)]
pub struct Listener {
    /// Its `struct sock` in the guest: what names it until it is closed.
    pub sk: u64,
    /// Address it is bound to; unspecified for any.
    pub address: IpAddr,
    /// Its owner.
    pub subject: Arc<Subject>,
}

impl Listeners {
    /// Adds a listener. Of several on one address the latest is the one that is asked for.
    pub fn insert(&mut self, protocol: Protocol, port: u16, listener: Listener) {
        self.remove(listener.sk);
        self.by_socket.insert(listener.sk, (protocol, port));
        let entry = self.by_port.entry((protocol, port)).or_default();
        if entry.len() >= MAX_SHARING {
            let oldest = entry.remove(0);
            self.by_socket.remove(&oldest.sk);
        }
        entry.push(listener);
    }

    /// Adds a listener unless it is known, behind those that are.
    pub fn insert_if_new(&mut self, protocol: Protocol, port: u16, listener: Listener) {
        let entry = self.by_port.entry((protocol, port)).or_default();
        if !self.by_socket.contains_key(&listener.sk) && entry.len() < MAX_SHARING {
            self.by_socket.insert(listener.sk, (protocol, port));
            entry.insert(0, listener);
        }
    }

    /// Whether the socket is known.
    pub fn has(&self, sk: u64) -> bool {
        self.by_socket.contains_key(&sk)
    }

    /// Removes a socket. Gives what it was.
    pub fn remove(&mut self, sk: u64) -> Option<(Protocol, u16, Listener)> {
        let place = self.by_socket.remove(&sk)?;
        let entry = self.by_port.get_mut(&place)?;
        let index = entry.iter().position(|l| l.sk == sk)?;
        let listener = entry.remove(index);
        if entry.is_empty() {
            self.by_port.remove(&place);
        }
        Some((place.0, place.1, listener))
    }

    /// Who would accept a connection to `address`: the exact binding before the wildcard, as the kernel does.
    pub fn owner_of(&self, protocol: Protocol, address: IpAddr, port: u16) -> Option<&Arc<Subject>> {
        let entry = self.by_port.get(&(protocol, port))?;
        let latest = || entry.iter().rev();
        latest()
            .find(|l| l.address == address)
            // An IPv6 wildcard socket takes IPv4 too unless it is v6-only.
            .or_else(|| latest().find(|l| l.address.is_unspecified()))
            .map(|l| &l.subject)
    }

    /// What the processes run that listen.
    pub fn processes(&self) -> impl Iterator<Item = Runs> + '_ {
        self.by_port
            .values()
            .flatten()
            .map(|l| Runs::from(&l.subject.process))
    }

    /// Whether a process listens.
    pub fn has_process(&self, runs: &Runs) -> bool {
        self.processes().any(|of| of == *runs)
    }

    /// Every protocol and port somebody listens on.
    pub fn ports(&self) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        self.by_port.keys().copied()
    }
}

/// A guest that dom0 gave no address is held to its MAC: it could send nothing else.
pub fn lock(rules: &Ruleset, vm: &Vm) -> Lock {
    match rules.lock_of(&vm.id).map(|said| said.value) {
        None | Some(policy::Lock::Off) => Lock::Off,
        Some(policy::Lock::Address) if !vm.configured.is_empty() => Lock::Address,
        Some(policy::Lock::Mac | policy::Lock::Address) => Lock::Mac,
    }
}

/// What becomes of a flow at a vif.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruling {
    /// What is known by now.
    pub decision: Decision,
    /// It is denied only for want of its process, which is found out once its first packet is reported.
    pub awaited: bool,
}

impl From<Decision> for Ruling {
    fn from(decision: Decision) -> Ruling {
        Ruling {
            decision,
            awaited: false,
        }
    }
}

/// The process of a subject as policy looks at it.
pub fn policy_process(subject: &Subject, measured: Measured) -> policy::Process<'_> {
    let p = &subject.process;
    policy::Process {
        exe: p.exe.as_deref(),
        args: &p.args,
        uid: p.euid,
        gid: p.credentials.gid.effective,
        groups: &p.credentials.groups,
        loginuid: (p.loginuid != NO_LOGIN).then_some(p.loginuid),
        container: p.container.as_deref(),
        parents: &subject.parents,
        measured,
    }
}

impl World {
    /// Builds a World. An address that dom0 gave to a guest is that guest's, whatever another guest's memory says; of two
    /// guests that only claim one neither is known by it: each may have it in a network of its own, as for containers, and one may lie.
    pub fn new(rules: Arc<Ruleset>, mut vms: Vec<Vm>) -> World {
        for vm in &mut vms {
            vm.id = rules.known(&vm.id);
            vm.locked = lock(&rules, vm) == Lock::Address;
        }
        let by_uuid = vms.iter().enumerate().map(|(i, vm)| (vm.id.uuid, i)).collect();
        let by_scope = vms.iter().enumerate().map(|(i, vm)| (vm.scope, i)).collect();
        let mut by_address = HashMap::new();
        let configured = vms
            .iter()
            .enumerate()
            .flat_map(|(i, vm)| vm.configured.iter().map(move |a| (*a, i)));
        let claimed = vms
            .iter()
            .enumerate()
            .flat_map(|(i, vm)| vm.claimed.iter().map(move |a| (*a, i)));
        let given: HashMap<IpAddr, usize> = configured.collect();
        let mut disputed = HashSet::new();
        for (address, i) in claimed.filter(|(address, _)| !given.contains_key(address)) {
            if *by_address.entry(address).or_insert(i) != i {
                disputed.insert(address);
            }
        }
        by_address.retain(|address, _| !disputed.contains(address));
        by_address.extend(given);
        World {
            asks_measured: rules.asks_measured(),
            rules,
            routes: Routes::default(),
            holds: false,
            vms,
            by_address,
            by_scope,
            by_uuid,
        }
    }

    /// The same World with the routes of its policy.
    pub fn with_routes(mut self, condition: &impl Condition) -> World {
        self.routes = Routes::resolve(&self, condition);
        self
    }

    /// Decides a flow. Where it depends on a process that is not known, the answer is deny: an unknown process may be the
    /// one a rule denies. Where it is a lookup that will tell, packets are dropped without an answer: the client tries again,
    /// and by then its process is known. No allocation, no lock.
    pub fn decide(&self, flow: &Flow<'_>) -> Decision {
        self.rules
            .decide_for_any_process(flow)
            .unwrap_or_else(|| self.decide_unknown(flow))
    }

    /// Decides a flow at the vif of the guest at one of its ends: also, whether it is denied only until it is known who owns it
    /// there.
    pub fn rule(&self, flow: &Flow<'_>, at: Side) -> Ruling {
        match self.rules.decide_for_any_process(flow) {
            Some(decision) => Ruling::from(decision),
            None => Ruling {
                decision: self.decide_unknown(flow),
                awaited: self.is_awaited(flow, at),
            },
        }
    }

    /// Decides a flow whose processes are known, as far as they will be: also, whether it is denied only until it is known what
    /// programs they run.
    pub fn weigh(&self, flow: &Flow<'_>) -> Ruling {
        match self.rules.decide_for_any_process(flow) {
            Some(decision) => Ruling::from(decision),
            None => Ruling {
                decision: self.decide_unknown(flow),
                awaited: self.is_unmeasured(&flow.source) || self.is_unmeasured(&flow.destination),
            },
        }
    }

    fn decide_unknown(&self, flow: &Flow<'_>) -> Decision {
        let mut decision = self.rules.decide(flow);
        let is_told = |end| self.is_looked_up(end) || self.is_unmeasured(end);
        if is_told(&flow.source) || is_told(&flow.destination) {
            decision.refuse = Refuse::Drop;
        }
        match decision.verdict {
            Verdict::Deny => decision,
            Verdict::Allow => Decision {
                // No rule decided: not knowing did.
                by: Decider::Nothing,
                class: None,
                mirror: None,
                dry_run: None,
                verdict: Verdict::Deny,
                audit: false,
                ..decision
            },
        }
    }

    /// What becomes of a flow to a route without a backend for it.
    pub fn unserved(&self, route: &policy::Route) -> Decision {
        Decision {
            refuse: route.refuse,
            ..self.nobody()
        }
    }

    /// What becomes of a flow that nobody is there for, whatever it is for.
    pub fn nobody(&self) -> Decision {
        Decision {
            verdict: Verdict::Deny,
            refuse: Refuse::Rst,
            audit: false,
            by: Decider::Unserved,
            class: None,
            mirror: None,
            dry_run: None,
            generation: self.rules.generation(),
        }
    }

    /// Whether it is for a lookup to tell the process at this end.
    fn is_looked_up(&self, end: &Endpoint<'_>) -> bool {
        matches!(end.owner, Owner::Unknown)
            && self
                .vm_of(end)
                .is_some_and(|vm| (!vm.trapped || vm.translates) && !vm.opaque)
    }

    /// Whether it is to be found out yet what program the process at this end runs.
    fn is_unmeasured(&self, end: &Endpoint<'_>) -> bool {
        let unknown = |process: &policy::Process<'_>| process.measured == Measured::Unknown;
        self.asks_measured && matches!(&end.owner, Owner::Process(process) if unknown(process))
    }

    /// Whether the report of a flow's first packet leads to its process at this end. Traps do not show what sockets send that are
    /// not connected, but who has them.
    fn is_awaited(&self, flow: &Flow<'_>, at: Side) -> bool {
        match (at, flow.protocol) {
            (Side::Source, Protocol::UDP) => {
                matches!(flow.source.owner, Owner::Unknown)
                    && self.vm_of(&flow.source).is_some_and(|vm| !vm.opaque)
            }
            (Side::Source, Protocol::TCP) => self.is_looked_up(&flow.source),
            (Side::Destination, Protocol::TCP | Protocol::UDP) => self.is_looked_up(&flow.destination),
            _ => false,
        }
    }

    fn vm_of(&self, end: &Endpoint<'_>) -> Option<&Vm> {
        self.vms.get(*self.by_uuid.get(&end.vm?.uuid)?)
    }

    /// What is known of a guest of this name and UUID, which may be gone: then, what the policy alone says of it.
    pub fn known(&self, vm: VmId) -> VmId {
        let here = self.by_uuid.get(&vm.uuid).and_then(|i| self.vms.get(*i));
        match here.filter(|here| here.id.name == vm.name) {
            Some(here) => here.id.clone(),
            None => self.rules.known(&vm),
        }
    }

    /// Whether the guests that are in both are known to be the same: by their labels, and by what Xen says of them.
    pub fn knows_the_same(&self, other: &World) -> bool {
        self.vms.iter().all(|vm| {
            let there = other.vm(vm.scope).filter(|there| there.id.uuid == vm.id.uuid);
            there.is_none_or(|there| there.id.facts == vm.id.facts)
        })
    }

    /// Whether dom0 gave the guest at an end the address there; `None` where it is no guest.
    pub fn is_given(&self, end: &Endpoint<'_>) -> Option<bool> {
        let vm = self.vm_of(end)?;
        Some(vm.configured.contains(&end.address.to_canonical()))
    }

    /// All guests.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// The guest with this scope (domain id).
    pub fn vm(&self, scope: u32) -> Option<&Vm> {
        self.by_scope.get(&scope).and_then(|i| self.vms.get(*i))
    }

    /// The guest that has this address.
    pub fn vm_at(&self, address: IpAddr) -> Option<&Vm> {
        self.by_address.get(&address).and_then(|i| self.vms.get(*i))
    }

    /// Whether an address is in a network of this guest that nobody outside sees: what it sends there passes no vif.
    pub fn is_within(&self, scope: u32, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let has = |vm: &Vm| vm.scope == scope && vm.claimed.contains(&address);
        self.vm(scope)
            .is_some_and(|vm| vm.translates && has(vm) && self.vm_at(address).is_none_or(has))
    }

    /// The source end in guest `scope`: with its process when a trap or the inventory showed it.
    pub fn source<'a>(&'a self, scope: u32, address: IpAddr, subject: Option<&'a Subject>) -> Endpoint<'a> {
        match (self.vm(scope), subject) {
            (Some(vm), Some(subject)) => vm.end(address).with_process(vm.process(subject)),
            (Some(vm), None) => vm.end(address),
            (None, Some(subject)) => {
                Endpoint::world(address).with_process(policy_process(subject, Measured::Unknown))
            }
            (None, None) => Endpoint::world(address),
        }
    }

    /// The destination end: the guest that has the address and the process that listens there, as far as known.
    pub fn destination(&self, protocol: Protocol, address: IpAddr, port: u16) -> Endpoint<'_> {
        match self.vm_at(address) {
            Some(vm) => vm.destination(protocol, address, port),
            None => Endpoint::world(address),
        }
    }
}

impl Vm {
    /// A guest that was just found: nothing is known of it but who it is.
    pub fn new(id: VmId, scope: u32) -> Vm {
        Vm {
            id,
            scope,
            configured: Vec::new(),
            claimed: Vec::new(),
            listeners: Arc::default(),
            trapped: false,
            translates: false,
            locked: false,
            opaque: false,
            macs: Vec::new(),
            counted: false,
            paused: false,
            measured: Arc::default(),
        }
    }

    /// Addresses it is known by, each once: those that dom0 gave it come first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.claimed.iter().filter(|a| !self.configured.contains(a));
        self.configured.iter().chain(others).copied()
    }

    /// A process of it as policy looks at it.
    pub fn process<'a>(&self, subject: &'a Subject) -> policy::Process<'a> {
        policy_process(subject, self.measured.of(self.scope, &subject.process))
    }

    /// The MAC address of the vif that has this address: by dom0's word, else of the guest's first.
    pub fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        let given = self.macs.iter().find(|(_, given)| given.contains(&address));
        given.or(self.macs.first()).map(|(mac, _)| *mac)
    }

    /// Whether a port that nobody is known to listen on has no listener.
    pub fn knows_listeners(&self) -> bool {
        self.trapped && self.counted
    }

    /// This guest at an address, without the process.
    pub fn end(&self, address: IpAddr) -> Endpoint<'_> {
        let end = Endpoint::guest(&self.id, address);
        match self.locked && self.configured.contains(&address.to_canonical()) {
            true => end.proven(),
            false => end,
        }
    }

    /// This guest as a destination.
    pub fn destination(&self, protocol: Protocol, address: IpAddr, port: u16) -> Endpoint<'_> {
        let end = self.end(address);
        match self.listeners.owner_of(protocol, address, port) {
            Some(subject) => end.with_process(self.process(subject)),
            None => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_proven_where_a_lock_holds_the_guest_to_what_dom0_gave_it() {
        let given: IpAddr = "10.0.0.12".parse().expect("an address");
        let proven = |policy: &str, configured: Vec<IpAddr>, at: &str| {
            let document = policy::Document::parse("p.yaml", policy).expect("a document");
            let rules = Ruleset::compile(&[document], 1).expect("rules");
            let id = VmId::new("web1", [0; 16]);
            let vm = Vm {
                configured,
                ..Vm::new(id, 1)
            };
            let world = World::new(Arc::new(rules), vec![vm]);
            world.source(1, at.parse().expect("an address"), None).proven
        };
        let locked = "policy: p\nlock: { web1: address }\n";
        assert!(proven(locked, vec![given], "10.0.0.12"));
        assert!(proven(locked, vec![given], "::ffff:10.0.0.12"));
        assert!(!proven(locked, vec![given], "10.0.0.13"));
        assert!(!proven(locked, vec![], "10.0.0.12"));
        assert!(!proven(
            "policy: p\nlock: { web1: mac }\n",
            vec![given],
            "10.0.0.12"
        ));
        assert!(!proven("policy: p\n", vec![given], "10.0.0.12"));
    }

    #[test]
    fn a_world_knows_labels_of_xenstore_and_of_policy() {
        let address: IpAddr = "10.0.0.12".parse().expect("an address");
        let text = "policy: p
default: { db1: deny }
labels: { web1: { app: shop } }
rules: [{ name: r, from: { label: { tier: front, app: shop } }, to: { vm: db1 }, action: allow }]
";
        let document = policy::Document::parse("p.yaml", text).expect("a document");
        let rules = Arc::new(Ruleset::compile(&[document], 1).expect("rules"));
        let world = |tier: &str| {
            let from = policy::LabelFrom::Xenstore("/local/domain/1/xmesh/labels/tier".into());
            let label = policy::Label::new("tier", tier, from).expect("a label");
            let web = VmId {
                facts: Arc::new(policy::Facts::new(None, None, vec![label])),
                ..VmId::new("web1", [1; 16])
            };
            let db = Vm {
                claimed: vec![address],
                ..Vm::new(VmId::new("db1", [2; 16]), 2)
            };
            World::new(Arc::clone(&rules), vec![Vm::new(web, 1), db])
        };
        let verdict = |world: &World| {
            let flow = Flow {
                protocol: Protocol::TCP,
                source: world.source(1, "10.0.0.11".parse().expect("an address"), None),
                destination: world.destination(Protocol::TCP, address, 80),
                port: 80,
            };
            world.decide(&flow).verdict
        };
        let (front, back) = (world("front"), world("back"));
        assert_eq!((verdict(&front), verdict(&back)), (Verdict::Allow, Verdict::Deny));
        assert!(front.knows_the_same(&world("front")) && !front.knows_the_same(&back));
        let known = front.known(VmId::new("web1", [1; 16]));
        assert_eq!(known.facts.labels().len(), 2);
        // Of one that is gone, what policy says is left.
        let gone = front.known(VmId::new("web1", [9; 16]));
        assert_eq!(gone.facts.labels().len(), 1);
    }

    #[test]
    fn a_guest_cannot_claim_what_dom0_gave_to_another() {
        let address: IpAddr = "10.0.0.12".parse().expect("an address");
        let vm = |name: &str, scope: u32, configured: Vec<IpAddr>| {
            let id = VmId::new(name, [0; 16]);
            Vm {
                claimed: vec![address],
                configured,
                ..Vm::new(id, scope)
            }
        };
        let rules = Arc::new(Ruleset::empty(0));
        let who = |vms: Vec<Vm>| {
            let world = World::new(Arc::clone(&rules), vms);
            world.vm_at(address).map(|vm| vm.scope)
        };
        assert_eq!(
            who(vec![vm("liar", 1, vec![]), vm("db1", 2, vec![address])]),
            Some(2)
        );
        assert_eq!(who(vec![vm("one", 1, vec![])]), Some(1));
        assert_eq!(who(vec![vm("one", 1, vec![]), vm("other", 2, vec![])]), None);
    }

    #[test]
    fn what_a_guest_sends_to_its_own_containers_stays_inside() {
        let [own, box1, db1] =
            ["10.0.0.11", "172.17.0.2", "10.0.0.12"].map(|a| a.parse::<IpAddr>().expect("an address"));
        let vm = |scope: u8, configured: IpAddr, translates: bool| Vm {
            claimed: vec![configured, box1, db1],
            configured: vec![configured],
            translates,
            ..Vm::new(VmId::new("a", [scope; 16]), scope.into())
        };
        let is_inside = |translates: bool, to: IpAddr| {
            let vms = vec![vm(1, own, translates), vm(2, db1, true)];
            let world = World::new(Arc::new(Ruleset::empty(0)), vms);
            world.is_within(1, to)
        };
        assert!(is_inside(true, box1) && is_inside(true, own));
        // What dom0 gave to another guest is not inside, whatever this one's kernel says.
        assert!(!is_inside(true, db1) && !is_inside(false, box1));
    }
}
