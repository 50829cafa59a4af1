// SPDX-License-Identifier: GPL-3.0-only
//! Routes among guests that are made up.

use std::sync::Arc;

use policy::{Document, Process, Ruleset, VmId};

use super::*;
use crate::world::Vm;

/// What is known beside the World, set by hand.
#[derive(Default)]
struct Known {
    down: Vec<&'static str>,
    up: Vec<&'static str>,
    shunned: Vec<&'static str>,
    gone: Vec<Departed>,
}

impl Condition for Known {
    fn checked(&self, _: Protocol, end: SocketAddr) -> Option<bool> {
        let is = |list: &[&str]| list.contains(&end.to_string().as_str());
        is(&self.up).then_some(true).or(is(&self.down).then_some(false))
    }

    fn is_shunned(&self, _: Protocol, end: SocketAddr) -> bool {
        self.shunned.contains(&end.to_string().as_str())
    }

    fn gone(&self) -> &[Departed] {
        &self.gone
    }
}

fn vm(name: &str, number: u8) -> Vm {
    let id = VmId::new(name, [number; 16]);
    let address = IpAddr::from([10, 0, 0, number]);
    Vm {
        claimed: vec![address],
        configured: vec![address],
        macs: vec![([0, 0, 0, 0, 0, number], vec![address])],
        trapped: true,
        ..Vm::new(id, number.into())
    }
}

fn guests() -> Vec<Vm> {
    vec![
        vm("app1", 1),
        vm("web1", 11),
        vm("web2", 12),
        vm("db1", 21),
        vm("spare", 31),
        vm("trap", 41),
    ]
}

const SHOP: &str = r#"
policy: shop
routes:
  shop:
    address: [10.0.0.100, fd00::100]
    port: 80
    backends:
      - { to: { vm: "web*" }, port: 8080, version: v1, weight: 80 }
      - { to: [{ vm: db1 }, 192.0.2.9], version: v2, weight: 20 }
      - { to: "fd00::7", version: v2 }
      - { to: { vm: spare }, version: v3 }
      - { to: { vm: trap }, version: v4, weight: 0 }
    canary: { from: { vm: app1, uid: 7 }, to: v2 }
    failover: v3
    denied: v4
"#;

fn world(text: &str, guests: Vec<Vm>, known: &Known) -> World {
    let document = Document::parse("shop.yaml", text).unwrap_or_else(|p| panic!("{p}"));
    let rules = Arc::new(Ruleset::compile(&[document], 1).expect("compiles"));
    World::new(rules, guests).with_routes(known)
}

fn at<'w>(world: &'w World, end: &str) -> &'w Facade {
    let end = end.parse().expect("an address");
    world.routes.at(Protocol::TCP, end).expect("a route")
}

/// Backends with a share, by address and weight.
fn shares(facade: &Facade) -> Vec<(String, u16)> {
    let all = facade.members.iter().filter(|m| m.table.weight > 0);
    all.map(|m| (m.end().to_string(), m.table.weight)).collect()
}

fn standing<'f>(facade: &'f Facade, end: &str) -> &'f Standing {
    let end = end.parse().expect("an address");
    &facade.member(end).expect("a backend").standing
}

#[test]
fn an_entry_shares_its_weight_among_those_that_serve() {
    let world = world(SHOP, guests(), &Known::default());
    let shop = at(&world, "10.0.0.100:80");
    let found = shares(shop);
    let part = |end: &str| found.iter().find(|(e, _)| e == end).map_or(0, |(_, w)| *w);
    let sum: f64 = found.iter().map(|(_, w)| f64::from(*w)).sum();
    for (end, share) in [
        ("10.0.0.11:8080", 0.4),
        ("10.0.0.12:8080", 0.4),
        ("10.0.0.21:80", 0.1),
        ("192.0.2.9:80", 0.1),
    ] {
        assert!((f64::from(part(end)) / sum - share).abs() < 1e-4, "{found:?}");
    }
    assert_eq!(found.len(), 4, "neither failover nor decoy: {found:?}");
    let member = shop.member("10.0.0.11:8080".parse().expect("an address"));
    assert_eq!(member.map(|m| m.table.mac), Some(Some([0, 0, 0, 0, 0, 11])));
    assert_eq!(
        shares(at(&world, "[fd00::100]:80")),
        [("[fd00::7]:80".to_owned(), 1)]
    );
}

#[test]
fn who_fails_leaves_its_part_to_its_entry_then_to_the_others_then_to_failover() {
    let known = |down: &[&'static str]| Known {
        down: down.to_vec(),
        ..Known::default()
    };
    let of = |known: &Known| {
        let world = world(SHOP, guests(), known);
        let facade = at(&world, "10.0.0.100:80");
        let states: Vec<BackendState> = facade.members.iter().map(|m| m.table.state).collect();
        assert!(!states.contains(&BackendState::Dead), "who fails keeps its flows");
        shares(facade)
    };
    let weights = |list: &[(&str, u16)]| {
        list.iter()
            .map(|(e, w)| ((*e).to_owned(), *w))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(&known(&["10.0.0.11:8080"])),
        weights(&[("10.0.0.12:8080", 80), ("10.0.0.21:80", 10), ("192.0.2.9:80", 10)])
    );
    assert_eq!(
        of(&known(&["10.0.0.11:8080", "10.0.0.12:8080", "192.0.2.9:80"])),
        weights(&[("10.0.0.21:80", 20)])
    );
    let all = ["10.0.0.11:8080", "10.0.0.12:8080", "192.0.2.9:80", "10.0.0.21:80"];
    assert_eq!(of(&known(&all)), weights(&[("10.0.0.31:80", 1)]));
    let shunned = Known {
        shunned: all.to_vec(),
        ..Known::default()
    };
    assert_eq!(of(&shunned), weights(&[("10.0.0.31:80", 1)]));
}

#[test]
fn a_canary_has_its_version_or_nobody_and_no_guest_has_itself() {
    let chosen = |known: &Known, uid: u32| -> BTreeSet<String> {
        let world = world(SHOP, guests(), known);
        let app1 = &world.vms()[0].id;
        let process = Process {
            uid,
            ..Process::default()
        };
        let source = Endpoint::guest(app1, [10, 0, 0, 1].into()).with_process(process);
        (1..300)
            .filter_map(|port| {
                let client = SocketAddr::from(([10, 0, 0, 1], port));
                let member = at(&world, "10.0.0.100:80").choose(&source, 1, client)?;
                Some(member.end().to_string())
            })
            .collect()
    };
    let set = |list: &[&str]| list.iter().map(|e| (*e).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        chosen(&Known::default(), 7),
        set(&["10.0.0.21:80", "192.0.2.9:80"])
    );
    assert_eq!(chosen(&Known::default(), 8).len(), 4);
    let v2_down = Known {
        down: vec!["10.0.0.21:80", "192.0.2.9:80"],
        ..Known::default()
    };
    assert_eq!(chosen(&v2_down, 7), set(&[]));
    assert_eq!(chosen(&v2_down, 8), set(&["10.0.0.11:8080", "10.0.0.12:8080"]));

    let world = world(SHOP, guests(), &Known::default());
    let web1 = Endpoint::guest(&world.vms()[1].id, [10, 0, 0, 11].into());
    let shop = at(&world, "10.0.0.100:80");
    assert!(shop.pool(&web1, 11).all(|(member, _)| member.scope != Some(11)));
    assert_eq!(shop.pool(&web1, 11).count(), 3);
    let client = SocketAddr::from(([10, 0, 0, 1], 9));
    let decoy = shop.decoy(1, client).map(|m| m.end().to_string());
    assert_eq!(decoy.as_deref(), Some("10.0.0.41:80"));
}

#[test]
fn where_the_gate_knows_no_more_than_the_table_it_chooses_alike() {
    let world = world(SHOP, guests(), &Known::default());
    let shop = at(&world, "10.0.0.100:80");
    let app1 = Endpoint::guest(&world.vms()[0].id, [10, 0, 0, 1].into());
    let table = world.routes.services();
    for port in 1..300 {
        let client = SocketAddr::from(([10, 0, 0, 1], port));
        let by_gate = shop.choose(&app1, 1, client).map(|m| m.table);
        assert_eq!(by_gate, Backend::choose(table[0].backends.clone(), client, false));
    }
}

#[test]
fn a_guest_says_by_its_listeners_whether_it_serves() {
    let of = |change: fn(&mut Vm), known: &Known| {
        let mut guests = guests();
        change(&mut guests[3]);
        let world = world(SHOP, guests, known);
        standing(at(&world, "10.0.0.100:80"), "10.0.0.21:80").clone()
    };
    let none = Known::default();
    assert_eq!(of(|_| {}, &none), Standing::Serves, "it has not been read");
    let silent = Standing::Fails(Failure::NobodyListens);
    assert_eq!(of(|vm| vm.counted = true, &none), silent);
    let asked = Known {
        up: vec!["10.0.0.21:80"],
        ..Known::default()
    };
    assert_eq!(
        of(|vm| vm.counted = true, &asked),
        Standing::Serves,
        "a check says more"
    );
    let read = |vm: &mut Vm| (vm.counted, vm.trapped) = (true, false);
    assert_eq!(
        of(read, &none),
        Standing::Serves,
        "what comes and goes is not told"
    );
    let paused = Standing::Fails(Failure::Paused);
    assert_eq!(of(|vm| vm.paused = true, &none), paused);
}

#[test]
fn the_backends_of_a_guest_that_is_gone_are_dead_until_another_has_their_address() {
    let before = world(SHOP, guests(), &Known::default());
    let shop = at(&before, "10.0.0.100:80");
    let gone = shop.members.iter().filter(|m| m.scope == Some(21));
    let known = Known {
        gone: gone.map(|m| Departed::new(shop, m)).collect(),
        ..Known::default()
    };
    let mut left = guests();
    left.remove(3);
    let after = world(SHOP, left.clone(), &known);
    let shop = at(&after, "10.0.0.100:80");
    assert_eq!(*standing(shop, "10.0.0.21:80"), Standing::Gone);
    let dead = shop
        .members
        .iter()
        .filter(|m| m.table.state == BackendState::Dead);
    assert_eq!(dead.count(), 1);

    left.push(vm("db1", 21));
    let again = world(SHOP, left, &known);
    let shop = at(&again, "10.0.0.100:80");
    assert_eq!(*standing(shop, "10.0.0.21:80"), Standing::Serves);
    assert_eq!(shop.members.len(), 6);
}

#[test]
fn no_guest_gets_the_flows_of_an_address_that_it_only_says_it_has() {
    let mut guests = guests();
    guests[1].claimed.push([192, 0, 2, 9].into());
    let world = world(SHOP, guests, &Known::default());
    let end = "192.0.2.9:80".parse().expect("an address");
    let member = at(&world, "10.0.0.100:80").member(end).expect("a backend");
    assert_eq!((member.scope, member.table.mac), (None, None));
}

#[test]
fn what_drains_takes_nothing_not_even_a_canary() {
    let text = SHOP.replace("weight: 20", "weight: 20, drain: true");
    let world = world(&text, guests(), &Known::default());
    let shop = at(&world, "10.0.0.100:80");
    assert_eq!(*standing(shop, "10.0.0.21:80"), Standing::Drains);
    let process = Process {
        uid: 7,
        ..Process::default()
    };
    let app1 = Endpoint::guest(&world.vms()[0].id, [10, 0, 0, 1].into()).with_process(process);
    assert_eq!(shop.pool(&app1, 1).count(), 0);
}
