// SPDX-License-Identifier: GPL-3.0-only
//! Random policies and flows over a world small enough that they meet.
#![allow(dead_code, reason = "not every test that shares this uses all of it")]

use std::net::IpAddr;
use std::sync::Arc;

use policy::{
    Document, Endpoint, Facts, Flow, GuestType, Label, LabelFrom, Measured, Owner, Process, Protocol,
    Ruleset, VmId,
};
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
const PARENTS: [&str; 4] = ["/sbin/init", "/usr/sbin/*", "/usr/sbin/cron", "**/sshd"];
const ROLES: [&str; 3] = ["admins", "web-users", "logged-in"];
/// What selectors ask of labels, and of what Xen says.
fn label() -> impl Strategy<Value = Value> {
    select(vec![
        json!({ "tier": "front" }),
        json!({ "tier": ["front", "b*"], "app": "shop" }),
        json!({ "app": "*" }),
        json!({ "app": ["shop", "pay"] }),
        json!({ "zone": "z?", "tier": "back" }),
    ])
}

fn xen() -> impl Strategy<Value = Value> {
    select(vec![
        json!({ "type": "pvh" }),
        json!({ "pool": "Pool-*" }),
        json!({ "type": ["pv", "hvm"], "pool": ["fast", "Pool-0"] }),
    ])
}

/// What documents say of labels.
fn labels() -> impl Strategy<Value = Value> {
    let of_one = select(vec![
        json!({ "tier": "front" }),
        json!({ "tier": "back", "app": "shop" }),
        json!({ "app": "pay" }),
        json!({ "zone": "z1", "app": "bare" }),
    ]);
    proptest::collection::btree_map(select(&VMS[..]), of_one, 0..4)
        .prop_map(|said| {
            said.into_iter()
                .map(|(vm, labels)| (vm.to_owned(), labels))
                .collect()
        })
        .prop_map(Value::Object)
}

/// What dom0 knows of a guest.
fn facts() -> impl Strategy<Value = Facts> {
    let given = subsequence(
        vec![
            ("tier", "front"),
            ("app", "shop"),
            ("zone", "z2"),
            ("zone", "away"),
        ],
        0..=3,
    );
    let guest_type = select(vec![
        None,
        Some(GuestType::Pv),
        Some(GuestType::Pvh),
        Some(GuestType::Hvm),
    ]);
    let pool = select(vec![None, Some("Pool-0"), Some("fast")]);
    (given, guest_type, pool).prop_map(|(given, guest_type, pool)| {
        let from = LabelFrom::Xenstore("/local/domain/1/xmesh/labels".into());
        let given = given
            .into_iter()
            .map(|(key, value)| Label::new(key, value, from.clone()).unwrap());
        Facts::new(guest_type, pool.map(Into::into), given.collect())
    })
}

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
fn selector(listens: bool) -> BoxedStrategy<Value> {
    let who = (
        proptest::option::weighted(0.5, some(&VMS)),
        proptest::option::weighted(0.3, some(&BLOCKS)),
        proptest::option::weighted(0.4, some(&EXES)),
        proptest::option::weighted(0.1, some(&ARGS)),
        proptest::option::weighted(0.2, select(vec![json!(0), json!("0-999"), json!([33, 1000])])),
        proptest::option::weighted(0.2, some(&CONTAINERS)),
        proptest::option::weighted(0.15, some(&ROLES)),
        proptest::option::weighted(0.1, some(&PARENTS)),
    );
    let what = (
        proptest::option::weighted(0.4, ports()),
        proptest::option::weighted(0.3, protocol()),
        proptest::option::weighted(0.25, label()),
        proptest::option::weighted(0.1, xen()),
    );
    (who, what)
        .prop_map(
            move |((vm, address, exe, arg, uid, container, role, parent), (port, protocol, label, xen))| {
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
                put("role", role.map(|v| json!(v)));
                put("parent", parent.map(|v| json!(v)));
                put("label", label);
                put("xen", xen);
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
        .boxed()
}

fn peers(listens: bool) -> BoxedStrategy<Value> {
    let one = prop_oneof![
        2 => select(vec![json!("any"), json!("world"), json!("unattributed")]),
        // `server` asks ports, so only a destination may be it.
        2 => select(if listens {
            vec![json!("client"), json!("server"), json!("versioned"), json!("versioned@v2")]
        } else {
            vec![json!("client"), json!("versioned"), json!("versioned@v1")]
        }),
        4 => selector(listens),
    ];
    proptest::collection::vec(one, 1..=3)
        .prop_map(Value::Array)
        .boxed()
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

/// Windows of a week in which some flows are and some are not.
fn times() -> impl Strategy<Value = Value> {
    let one = select(vec![
        json!({ "days": "mon-fri", "hours": "08:00-18:00" }),
        json!({ "days": ["sat", "sun"], "zone": "+05:30" }),
        json!({ "hours": "22:00-06:00", "zone": "-03:00" }),
        json!({ "days": "thu", "hours": "12:00-12:01" }),
    ]);
    proptest::collection::vec(one, 1..=2).prop_map(Value::Array)
}

/// What a rule requires; `passes`: it denies nothing.
fn require(passes: bool) -> impl Strategy<Value = Option<Value>> {
    let level = select(vec![
        json!("network"),
        json!("process"),
        json!("measured"),
        json!({ "from": "measured" }),
        json!({ "from": "process", "to": "network" }),
        json!({ "to": "measured" }),
    ]);
    (
        proptest::option::weighted(0.3, level),
        proptest::option::weighted(0.3, some(&ROLES)),
        proptest::option::weighted(0.4, times()),
    )
        .prop_map(move |(level, role, time)| {
            let mut map = serde_json::Map::new();
            if let Some(level) = level.filter(|_| passes) {
                map.insert("authentication".to_owned(), json!(level));
            }
            if let Some(role) = role.filter(|_| passes) {
                map.insert("role".to_owned(), json!(role));
            }
            if let Some(time) = time {
                map.insert("time".to_owned(), time);
            }
            (!map.is_empty()).then_some(Value::Object(map))
        })
}

fn rule() -> BoxedStrategy<Value> {
    let besides = (
        proptest::option::weighted(0.4, require(true)),
        proptest::option::weighted(0.2, require(false)),
        proptest::bool::weighted(0.15),
    );
    (rule_of_old(), besides)
        .prop_map(|(mut rule, (passes, denies, dry_run))| {
            let required = if rule["action"] == "deny" { denies } else { passes };
            if let Some(required) = required.flatten() {
                rule["require"] = required;
            }
            if dry_run {
                rule["dry_run"] = json!(true);
            }
            rule
        })
        .boxed()
}

/// A rule that requires nothing.
fn rule_of_old() -> BoxedStrategy<Value> {
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
        .boxed()
}

/// A class, without its name.
fn class() -> BoxedStrategy<Value> {
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
        .boxed()
}

fn document(name: &'static str) -> BoxedStrategy<Document> {
    (
        proptest::collection::btree_map(select(&VMS[..6]), action(), 0..3),
        selector(false),
        selector(true),
        proptest::collection::vec(rule(), 0..8),
        proptest::collection::vec((peers(false), select(vec!["v1", "v2", "v3"])), 0..4),
        proptest::collection::vec(class(), 0..5),
        labels(),
    )
        .prop_map(
            move |(defaults, client, server, mut rules, canary, mut classes, labels)| {
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
                let versioned = json!({
                    "address": "10.0.0.0/8",
                    "label": { "app": "*" },
                    "versions": {
                        "v1": { "vm": "web1", "label": { "tier": "front" } },
                        "v2": { "vm": "web*", "uid": "0-999" },
                    },
                });
                let roles = json!({
                    "admins": { "uid": 0 },
                    "web-users": [{ "vm": "web*", "gid": [33, "100-200"] }, { "vm": "web1", "uid": 1000 }],
                    "logged-in": { "loginuid": "1000-1999", "gid": 7 },
                });
                let services = json!({ "client": client, "server": server, "versioned": versioned });
                let text = json!({
                    "policy": name, "default": defaults, "roles": roles, "labels": labels,
                    "programs": { "p": { "exe": "/usr/bin/*", "text": [{ "page": 1, "sha256": "A".repeat(43) + "=" }] } },
                    "services": services, "rules": rules,
                    "routes": { "r": route(name, canary) },
                    "qos": { "classes": classes, "vms": { "web*": { "to_guest": "1gbit" } } },
                })
                .to_string();
                Document::parse("random", &text).unwrap_or_else(|p| panic!("{text}\n{p}"))
            },
        )
        .boxed()
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
/// Of one of a few names.
pub fn document_of_any() -> impl Strategy<Value = Document> {
    select(vec!["a", "b", "c", "d"]).prop_flat_map(document)
}

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
    proven: bool,
}

#[derive(Debug, Clone)]
enum OwnedOwner {
    Process(Box<OwnedProcess>),
    Unknown,
    Unattributed,
}

/// A process, owned.
#[derive(Debug, Clone)]
struct OwnedProcess {
    exe: Option<&'static str>,
    args: Vec<String>,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    loginuid: Option<u32>,
    container: Option<&'static str>,
    parents: Vec<Arc<str>>,
    measured: Measured,
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
        select(vec![0, 7, 33, 1000]),
        subsequence(vec![7, 33, 150], 0..=2),
        select(vec![None, Some(0), Some(1000)]),
        subsequence(vec!["/usr/sbin/cron", "/usr/sbin/sshd", "/sbin/init"], 0..=2),
        select(vec![
            Measured::Unknown,
            Measured::Unregistered,
            Measured::Same,
            Measured::Changed,
        ]),
    );
    let process = process.prop_map(
        |(exe, args, uid, container, gid, groups, loginuid, parents, measured)| OwnedProcess {
            exe,
            args,
            uid,
            gid,
            groups,
            loginuid,
            container,
            parents: parents.into_iter().map(Arc::from).collect(),
            measured,
        },
    );
    prop_oneof![
        4 => process.prop_map(|process| OwnedOwner::Process(Box::new(process))),
        1 => Just(OwnedOwner::Unknown),
        1 => Just(OwnedOwner::Unattributed),
    ]
}

fn end() -> BoxedStrategy<End> {
    let vm = select(vec![
        None,
        Some(("web1", 1)),
        Some(("web2", 2)),
        Some(("db1", 3)),
        Some(("dx1", 1)),
        Some(("other", 4)),
    ]);
    let address = select(ADDRESSES.to_vec());
    (vm, owner(), address, any::<bool>(), facts())
        .prop_map(|(vm, owner, address, proven, facts)| End {
            vm: vm.map(|(name, byte)| VmId {
                facts: Arc::new(facts),
                ..VmId::new(name, [byte; 16])
            }),
            owner,
            address: address.parse().unwrap(),
            proven,
        })
        .boxed()
}

impl End {
    fn endpoint(&self) -> Endpoint<'_> {
        Endpoint {
            vm: self.vm.as_ref(),
            owner: match &self.owner {
                OwnedOwner::Process(process) => Owner::Process(Process {
                    exe: process.exe,
                    args: &process.args,
                    uid: process.uid,
                    gid: process.gid,
                    groups: &process.groups,
                    loginuid: process.loginuid,
                    container: process.container,
                    parents: &process.parents,
                    measured: process.measured,
                }),
                OwnedOwner::Unknown => Owner::Unknown,
                OwnedOwner::Unattributed => Owner::Unattributed,
            },
            address: self.address,
            proven: self.proven,
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
    /// The same with the labels that the guests have by this ruleset.
    pub fn known(&self, ruleset: &Ruleset) -> OwnedFlow {
        let end = |end: &End| End {
            vm: end.vm.as_ref().map(|vm| ruleset.known(vm)),
            ..end.clone()
        };
        OwnedFlow {
            source: end(&self.source),
            destination: end(&self.destination),
            ..self.clone()
        }
    }

    pub fn flow(&self) -> Flow<'_> {
        Flow {
            protocol: self.protocol,
            source: self.source.endpoint(),
            destination: self.destination.endpoint(),
            port: self.port,
        }
    }
}

/// A time of one week, in seconds since 1970.
pub fn time() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..604_800i64, 1 => select(vec![0, 43_200, 43_259, 43_260, 28_800, 28_799])]
}

/// A protocol, and a port where it has some.
fn service() -> impl Strategy<Value = (Protocol, u16)> {
    let protocol = select(vec![Protocol::TCP, Protocol::TCP, Protocol::UDP, Protocol::ICMP]);
    let port = select(vec![80, 81, 443, 22, 450, 6379, 9]);
    (protocol, port).prop_map(|(protocol, port)| (protocol, if protocol.has_ports() { port } else { 0 }))
}

pub fn flow() -> impl Strategy<Value = OwnedFlow> {
    (service(), end(), end()).prop_map(|((protocol, port), source, destination)| OwnedFlow {
        protocol,
        source,
        destination,
        port,
    })
}

/// Some ends, with all flows between any two of them for some services: that costs less than as many flows made one by one.
pub fn flows() -> impl Strategy<Value = Vec<OwnedFlow>> {
    let ends = proptest::collection::vec(end(), 8..=20);
    let services = proptest::collection::vec(service(), 2..=4);
    (ends, services).prop_map(|(ends, services)| {
        let mut flows = Vec::with_capacity(ends.len() * ends.len() * services.len());
        for source in &ends {
            for destination in &ends {
                flows.extend(services.iter().map(|(protocol, port)| OwnedFlow {
                    protocol: *protocol,
                    source: source.clone(),
                    destination: destination.clone(),
                    port: *port,
                }));
            }
        }
        flows
    })
}
