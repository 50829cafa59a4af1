// SPDX-License-Identifier: GPL-3.0-only
//! Random policies and flows over a world small enough that they meet.

use std::net::IpAddr;

use policy::{Document, Endpoint, Flow, Owner, Process, Protocol, VmId};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

const VMS: [&str; 7] = [
    "web1",
    "web2",
    "db1",
    "web*",
    "*",
    "d?1",
    "01010101-0101-0101-0101-010101010101",
];
const BLOCKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.1",
    "10.0.0.2",
    "2001:db8::/32",
    "::/0",
    "::ffff:10.0.0.0/120",
];
const EXES: [&str; 5] = ["/usr/bin/curl", "/usr/bin/wget", "/usr/bin/*", "/opt/**", "**"];
const ARGS: [&str; 3] = ["-v", "*.py", "x?"];
const CONTAINERS: [&str; 3] = ["none", "3f*", "*"];
const ADDRESSES: [&str; 7] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.9.9",
    "10.9.9.9",
    "::ffff:10.0.0.1",
    "2001:db8::1",
    "192.0.2.1",
];

fn some<T: Clone + std::fmt::Debug + 'static>(of: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    subsequence(of, 1..=2)
}

fn ports() -> impl Strategy<Value = Value> {
    select(vec![
        json!(80),
        json!([80, 443]),
        json!("79-81"),
        json!("1-65535"),
        json!([22, "400-500"]),
        json!(6379),
        json!(["1-40", "60-100"]),
    ])
}

fn protocol() -> impl Strategy<Value = &'static str> {
    select(vec!["tcp", "udp"])
}

/// A selector with at least one condition; `listens`: it may ask ports.
fn selector(listens: bool) -> impl Strategy<Value = Value> {
    let maybe = |p: f64| proptest::option::weighted(p, Just(()));
    let who = (
        proptest::option::weighted(0.5, some(&VMS)),
        proptest::option::weighted(0.3, some(&BLOCKS)),
        proptest::option::weighted(0.4, some(&EXES)),
        proptest::option::weighted(0.1, some(&ARGS)),
        proptest::option::weighted(0.2, select(vec![json!(0), json!("0-999"), json!([33, 1000])])),
        proptest::option::weighted(0.2, some(&CONTAINERS)),
    );
    let what = (
        proptest::option::weighted(0.4, ports()),
        proptest::option::weighted(0.3, protocol()),
        maybe(0.5),
    );
    (who, what).prop_map(
        move |((vm, address, exe, arg, uid, container), (port, protocol, _))| {
            let mut map = serde_json::Map::new();
            let mut put = |name: &str, value: Option<Value>| {
                if let Some(value) = value {
                    map.insert(name.to_owned(), value);
                }
            };
            put("vm", vm.map(|v| json!(v)));
            put("address", address.map(|v| json!(v)));
            put("exe", exe.map(|v| json!(v)));
            put("arg", arg.map(|v| json!(v)));
            put("uid", uid);
            put("container", container.map(|v| json!(v)));
            if listens {
                put("port", port);
                put("protocol", protocol.map(|v| json!(v)));
            }
            if map.is_empty() {
                map.insert("vm".to_owned(), json!("web1"));
            }
            Value::Object(map)
        },
    )
}

fn peers(listens: bool) -> impl Strategy<Value = Value> {
    let one = prop_oneof![
        2 => select(vec![json!("any"), json!("world"), json!("unattributed")]),
        // `server` asks ports, so only a destination may be it.
        2 => select(if listens {
            vec![json!("client"), json!("server")]
        } else {
            vec![json!("client")]
        }),
        4 => selector(listens),
    ];
    proptest::collection::vec(one, 1..=3).prop_map(Value::Array)
}

fn action() -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
    select(vec![
        ("allow", None),
        ("allow", None),
        ("audit", None),
        ("deny", None),
        ("deny", Some("drop")),
        ("deny", Some("rst")),
        ("deny", Some("icmp")),
    ])
}

fn rule() -> impl Strategy<Value = Value> {
    (
        peers(false),
        peers(true),
        proptest::option::weighted(0.4, ports()),
        proptest::option::weighted(0.3, protocol()),
        action(),
        proptest::option::weighted(
            0.3,
            (
                select(vec!["sensor-1", "sensor-2"]),
                select(vec!["100%", "0.25%"]),
            ),
        ),
    )
        .prop_map(|(from, to, ports, protocol, (action, refuse), mirror)| {
            let mut rule = json!({ "from": from, "to": to, "action": action });
            if let Some(ports) = ports {
                rule["ports"] = ports;
            }
            if let Some(protocol) = protocol {
                rule["protocol"] = json!(protocol);
            }
            if let Some(refuse) = refuse {
                rule["refuse"] = json!(refuse);
                // Of some of them, for protocols that can be.
                if protocol.is_none_or(|p| p == "tcp") && refuse == "rst" {
                    rule["instead"] = json!({ "vm": "trap*", "port": 80 });
                }
            }
            if let Some((to, share)) = mirror.filter(|_| action != "deny") {
                rule["mirror"] = json!({ "to": to, "share": share });
            }
            rule
        })
}

/// A class, without its name.
fn class() -> impl Strategy<Value = Value> {
    let rates = select(vec![
        json!({ "guarantee": "10mbit" }),
        json!({ "guarantee": "1500kbit", "ceiling": "1gbit" }),
        json!({ "ceiling": "12345bit" }),
    ]);
    (
        (peers(false), peers(true)),
        proptest::option::weighted(0.4, ports()),
        proptest::option::weighted(0.3, protocol()),
        rates,
        select(vec!["realtime", "interactive", "default", "bulk"]),
        proptest::option::weighted(0.5, select(vec![json!("ef"), json!("af41"), json!(3), json!(0)])),
    )
        .prop_map(|((from, to), ports, protocol, bandwidth, priority, dscp)| {
            let mut class = json!({ "from": from, "to": to, "bandwidth": bandwidth, "priority": priority });
            if let Some(ports) = ports {
                class["ports"] = ports;
            }
            if let Some(protocol) = protocol {
                class["protocol"] = json!(protocol);
            }
            if let Some(dscp) = dscp {
                class["dscp"] = dscp;
            }
            class
        })
}

fn document(name: &'static str) -> impl Strategy<Value = Document> {
    (
        proptest::collection::btree_map(select(&VMS[..6]), action(), 0..3),
        selector(false),
        selector(true),
        proptest::collection::vec(rule(), 0..8),
        proptest::collection::vec((peers(false), select(vec!["v1", "v2", "v3"])), 0..4),
        proptest::collection::vec(class(), 0..5),
    )
        .prop_map(
            move |(defaults, client, server, mut rules, canary, mut classes)| {
                for (i, rule) in rules.iter_mut().chain(&mut classes).enumerate() {
                    rule["name"] = json!(format!("r{i}"));
                }
                let defaults: serde_json::Map<String, Value> = defaults
                    .into_iter()
                    .map(|(vm, (action, refuse))| {
                        let value = match refuse {
                            Some(refuse) => json!({ "action": action, "refuse": refuse }),
                            None => json!(action),
                        };
                        (vm.to_owned(), value)
                    })
                    .collect();
                let text = json!({
                    "policy": name, "default": defaults,
                    "services": { "client": client, "server": server }, "rules": rules,
                    "routes": { "r": route(name, canary) },
                    "qos": { "classes": classes, "vms": { "web*": { "to_guest": "1gbit" } } },
                })
                .to_string();
                Document::parse("random", &text).unwrap_or_else(|p| panic!("{text}\n{p}"))
            },
        )
}

/// A route of its own for each set; nobody opens a flow to it from outside.
fn route(set: &str, canary: Vec<(Value, &str)>) -> Value {
    let canary: Vec<Value> = canary
        .into_iter()
        .filter_map(|(from, to)| {
            let from: Vec<Value> = from
                .as_array()?
                .iter()
                .filter(|p| **p != "world")
                .cloned()
                .collect();
            (!from.is_empty()).then(|| json!({ "from": from, "to": to }))
        })
        .collect();
    let mut route = json!({
        "address": format!("10.7.0.{}", set.as_bytes()[0]), "port": 80,
        "backends": [
            { "to": "10.7.1.1", "version": "v1" },
            { "to": { "vm": "web*" }, "version": "v2", "weight": 0 },
            { "to": "10.7.1.3", "version": "v3", "drain": true },
        ],
    });
    if !canary.is_empty() {
        route["canary"] = Value::Array(canary);
    }
    route
}

/// One to three sets.
pub fn documents() -> impl Strategy<Value = Vec<Document>> {
    (
        document("b"),
        proptest::option::of(document("a")),
        proptest::option::weighted(0.2, document("c")),
    )
        .prop_map(|(b, a, c)| std::iter::once(b).chain(a).chain(c).collect())
}

/// One end of a flow, owned.
#[derive(Debug, Clone)]
pub struct End {
    vm: Option<VmId>,
    owner: OwnedOwner,
    address: IpAddr,
}

#[derive(Debug, Clone)]
enum OwnedOwner {
    Process(Option<&'static str>, Vec<String>, u32, Option<&'static str>),
    Unknown,
    Unattributed,
}

fn owner() -> impl Strategy<Value = OwnedOwner> {
    let process = (
        select(vec![
            None,
            Some("/usr/bin/curl"),
            Some("/usr/bin/wget"),
            Some("/opt/a/b"),
            Some("/usr/bin/x/curl"),
        ]),
        subsequence(vec!["-v".to_owned(), "app.py".to_owned(), "xy".to_owned()], 0..=2),
        select(vec![0, 33, 999, 1000, 70_000]),
        select(vec![None, Some("3f1c"), Some("none")]),
    );
    prop_oneof![
        4 => process.prop_map(|(exe, args, uid, container)| OwnedOwner::Process(exe, args, uid, container)),
        1 => Just(OwnedOwner::Unknown),
        1 => Just(OwnedOwner::Unattributed),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let vm = select(vec![
        None,
        Some(("web1", 1)),
        Some(("web2", 2)),
        Some(("db1", 3)),
        Some(("dx1", 1)),
        Some(("other", 4)),
    ]);
    (vm, owner(), select(ADDRESSES.to_vec())).prop_map(|(vm, owner, address)| End {
        vm: vm.map(|(name, byte)| VmId {
            name: name.to_owned(),
            uuid: [byte; 16],
        }),
        owner,
        address: address.parse().unwrap(),
    })
}

impl End {
    fn endpoint(&self) -> Endpoint<'_> {
        Endpoint {
            vm: self.vm.as_ref(),
            owner: match &self.owner {
                OwnedOwner::Process(exe, args, uid, container) => Owner::Process(Process {
                    exe: *exe,
                    args,
                    uid: *uid,
                    container: *container,
                }),
                OwnedOwner::Unknown => Owner::Unknown,
                OwnedOwner::Unattributed => Owner::Unattributed,
            },
            address: self.address,
        }
    }
}

/// A flow, owned.
#[derive(Debug, Clone)]
pub struct OwnedFlow {
    protocol: Protocol,
    source: End,
    destination: End,
    port: u16,
}

impl OwnedFlow {
    pub fn flow(&self) -> Flow<'_> {
        Flow {
            protocol: self.protocol,
            source: self.source.endpoint(),
            destination: self.destination.endpoint(),
            port: self.port,
        }
    }
}

pub fn flow() -> impl Strategy<Value = OwnedFlow> {
    (
        select(vec![Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::ICMP]),
        end(),
        end(),
        select(vec![80, 81, 443, 22, 450, 6379, 9]),
    )
        .prop_map(|(protocol, source, destination, port)| OwnedFlow {
            port: if protocol.has_ports() { port } else { 0 },
            protocol,
            source,
            destination,
        })
}
