// SPDX-License-Identifier: GPL-3.0-only
//! From nodes to a document.

use std::collections::BTreeMap;

use super::entries::{Kind, entries};
use super::fields::Reader;
use super::node::{self, Node, Value};
use super::read_routes::routes;
use super::require::require;
use super::roles::{self, role};
pub(super) use super::services::Services;
use super::services::services;
use super::targets::instead;
use super::values::{boolean, ids, name, one_of, parsed, patterns, ports, protocol, shorten, values};
use super::{
    Action, ContainerPattern, Document, Lock, MAX_RULES, MAX_TEXT, Origin, Peer, Refuse, Rule, Selector,
    VmPattern,
};
use crate::pattern::Pattern;
use crate::port::Protocol;
use crate::problem::{Place, Problem, Problems, nearest};

pub(super) const DOCUMENT: [&str; 13] = [
    "policy",
    "description",
    "default",
    "lock",
    "frames",
    "labels",
    "roles",
    "programs",
    "services",
    "routes",
    "rules",
    "qos",
    "answers",
];
pub(super) const SELECTOR: [&str; 12] = [
    "vm",
    "address",
    "exe",
    "arg",
    "uid",
    "role",
    "container",
    "parent",
    "port",
    "protocol",
    "label",
    "xen",
];
pub(super) const RULE: [&str; 12] = [
    "name",
    "description",
    "from",
    "to",
    "ports",
    "protocol",
    "require",
    "action",
    "refuse",
    "dry_run",
    "instead",
    "mirror",
];
/// Words that name a peer in `from` and `to`, and so cannot name a service.
pub(super) const PEERS: [&str; 3] = ["any", "world", "unattributed"];

pub(super) fn document(file: &str, text: &str) -> Result<Document, Problems> {
    let whole = |what: String, remedy: &str| {
        Problems::from(Problem {
            file: file.to_owned(),
            line: 1,
            column: 1,
            what,
            remedy: remedy.to_owned(),
        })
    };
    if text.len() > MAX_TEXT {
        return Err(whole(
            format!("{} bytes of text, the limit is {MAX_TEXT}", text.len()),
            "split it into several policy sets",
        ));
    }
    let root = node::parse(file, text).map_err(|problem| Problems::from(*problem));
    let empty = text
        .lines()
        .all(|line| matches!(line.trim().bytes().next(), None | Some(b'#')));
    if empty {
        return Err(whole(
            "there is no policy in it".to_owned(),
            "write at least `policy: NAME`",
        ));
    }
    let root = root?;
    let reader = Reader::new(file);
    let document = read(&reader, &root, file);
    Problems::or(reader.into_problems())?;
    // `read` gives nothing only where it notes why.
    document.ok_or_else(|| whole("no policy could be read".to_owned(), "write `policy: NAME`"))
}

fn read(reader: &Reader<'_>, root: &Node, file: &str) -> Option<Document> {
    if !matches!(root.value, Value::Map(_)) {
        reader.problem(
            root.place,
            format_args!("a policy is {}, not a mapping", root.value.kind()),
            "begin with `policy: NAME`",
        );
        return None;
    }
    let fields = reader.fields(root, "a policy", &DOCUMENT);
    let name_node = fields.require(reader, "policy", "the document", "shop");
    let name = name_node.and_then(|n| name(reader, n, "the name of a policy"));
    let description = fields
        .get("description")
        .and_then(|n| reader.text(n, "`description`"))
        .map(str::to_owned);
    let defaults = fields
        .get("default")
        .map(|n| defaults(reader, n))
        .unwrap_or_default();
    let locks = fields.get("lock").map(|n| locks(reader, n)).unwrap_or_default();
    let frames = fields
        .get("frames")
        .map(|n| super::frames::frames(reader, n))
        .unwrap_or_default();
    let labels = fields
        .get("labels")
        .map(|n| super::labels::labels(reader, n))
        .unwrap_or_default();
    let said = |field: &str| fields.get(field).filter(|n| !matches!(n.value, Value::Null));
    let roles = said("roles").map(|n| roles::roles(reader, n)).unwrap_or_default();
    let written_roles = roles::written(&roles);
    let programs = said("programs")
        .map(|n| super::programs::programs(reader, n))
        .unwrap_or_default();
    let (services, written) = services(reader, said("services"), roles);
    let (rules, rule_places) = said("rules")
        .map(|n| rules(reader, n, &services))
        .unwrap_or_default();
    let (routes, route_places) = said("routes")
        .map(|n| routes(reader, n, &services))
        .unwrap_or_default();
    let qos = fields
        .get("qos")
        .map(|n| super::qos::read::qos(reader, n, &services))
        .unwrap_or_default();
    let answers = said("answers")
        .map(|n| super::answers::answers(reader, n))
        .unwrap_or_default();
    Some(Document {
        name: name?,
        description,
        defaults,
        locks,
        frames,
        labels,
        roles: written_roles,
        programs,
        services: written,
        routes,
        rules,
        qos,
        answers,
        origin: Origin {
            file: file.to_owned(),
            name: name_node?.place,
            routes: route_places,
            rules: rule_places,
        },
    })
}

fn defaults(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Action> {
    reader
        .entries(node, "`default`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text);
            let action = match &value.value {
                Value::Map(_) => {
                    let fields = reader.fields(value, "a default", &["action", "refuse"]);
                    action(reader, &fields, "a default")
                }
                _ => word(reader, value, "a default"),
            };
            Some((pattern?, action?))
        })
        .collect()
}

fn locks(reader: &Reader<'_>, node: &Node) -> BTreeMap<Pattern, Lock> {
    let words = [Lock::Off, Lock::Mac, Lock::Address];
    reader
        .entries(node, "`lock`")
        .into_iter()
        .filter_map(|(key, value)| {
            let pattern = parsed::<Pattern>(reader, key.place, &key.text);
            let lock = one_of(reader, value, "a lock", &words, Lock::as_str);
            Some((pattern?, lock?))
        })
        .collect()
}

/// `allow`, `deny` or `audit` alone.
fn word(reader: &Reader<'_>, node: &Node, of: &str) -> Option<Action> {
    let text = reader.text(node, of)?;
    let words = ["allow", "deny", "audit"];
    Some(match text {
        "allow" => Action::Allow,
        "deny" => Action::Deny {
            refuse: Refuse::default(),
        },
        "audit" => Action::Audit,
        _ => {
            let remedy = match nearest(text, words) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write allow, deny or audit".to_owned(),
            };
            reader.problem(
                node.place,
                format_args!("`{}` is not an action", shorten(text)),
                remedy,
            );
            return None;
        }
    })
}

fn action(reader: &Reader<'_>, fields: &super::fields::Fields<'_>, of: &str) -> Option<Action> {
    let action = fields
        .require(reader, "action", of, "allow")
        .and_then(|n| word(reader, n, "`action`"));
    let Some(node) = fields.get("refuse") else {
        return action;
    };
    let refuse = refusal(reader, node)?;
    match action? {
        Action::Deny { .. } => Some(Action::Deny { refuse }),
        other => {
            reader.problem(
                node.place,
                format_args!(
                    "`refuse` with the action {}, which refuses nothing",
                    other.as_str()
                ),
                "remove `refuse`, or write `action: deny`",
            );
            None
        }
    }
}

/// How a client learns that it was refused.
pub(super) fn refusal(reader: &Reader<'_>, node: &Node) -> Option<Refuse> {
    match reader.text(node, "`refuse`")? {
        "rst" => Some(Refuse::Rst),
        "icmp" => Some(Refuse::Icmp),
        "drop" => Some(Refuse::Drop),
        other => {
            reader.problem(
                node.place,
                format_args!("`{}` is not a way to refuse", shorten(other)),
                "write rst (the client learns at once), icmp (so it does, by ICMP) or drop (it waits)",
            );
            None
        }
    }
}

pub(super) fn selector(reader: &Reader<'_>, node: &Node, of: &str, services: &Services) -> Option<Selector> {
    selector_but(reader, node, of, services, &[])
}

/// A selector in a mapping that may have other fields, too.
pub(super) fn selector_but(
    reader: &Reader<'_>,
    node: &Node,
    of: &str,
    services: &Services,
    others: &[&str],
) -> Option<Selector> {
    if !matches!(node.value, Value::Map(_)) {
        reader.problem(
            node.place,
            format_args!("{of} is {}, not a mapping", node.value.kind()),
            "write conditions, such as `{ vm: web1, exe: /usr/bin/curl }`",
        );
        return None;
    }
    let fields = reader.fields(node, of, &[&SELECTOR, others].concat());
    let selector = Selector {
        vm: patterns(reader, fields.get("vm"), "`vm`", VmPattern::from),
        address: values(reader, fields.get("address"), "`address`"),
        exe: patterns(reader, fields.get("exe"), "`exe`", |p| p),
        arg: patterns(reader, fields.get("arg"), "`arg`", |p| p),
        uid: fields
            .get("uid")
            .map(|n| ids(reader, n, "uid"))
            .unwrap_or_default(),
        role: fields
            .get("role")
            .map(|n| reader.list(n, "`role`", |one| role(reader, one, &services.roles)))
            .unwrap_or_default(),
        container: patterns(reader, fields.get("container"), "`container`", |p| {
            match p.as_str() {
                "none" => ContainerPattern::Outside,
                _ => ContainerPattern::Id(p),
            }
        }),
        parent: patterns(reader, fields.get("parent"), "`parent`", |p| p),
        port: ports(reader, fields.get("port"), "`port`"),
        protocol: fields.get("protocol").and_then(|n| protocol(reader, n)),
        label: fields
            .get("label")
            .map(|n| super::labels::asked(reader, n))
            .unwrap_or_default(),
        xen: fields
            .get("xen")
            .map(|n| super::labels::xen(reader, n))
            .unwrap_or_default(),
    };
    for (node, paths) in [
        (fields.get("exe"), &selector.exe),
        (fields.get("parent"), &selector.parent),
    ] {
        if let Some(node) = node {
            absolute(reader, node, paths);
        }
    }
    ports_fit(reader, fields.get("port"), selector.protocol);
    if SELECTOR.iter().all(|field| fields.get(field).is_none()) {
        reader.problem(
            node.place,
            format_args!("{of} says nothing, so it would match everything"),
            "write a condition, such as `vm: web1`; use `any` in a rule to mean everything",
        );
        return None;
    }
    Some(selector)
}

/// Paths of executables are absolute.
pub(super) fn absolute(reader: &Reader<'_>, node: &Node, paths: &[Pattern]) {
    for path in paths {
        if !path.as_str().starts_with(['/', '*', '?']) {
            reader.problem(
                node.place,
                format_args!("`{path}` is not an absolute path, so no executable has it"),
                format_args!("write the whole path, or **/{path}"),
            );
        }
    }
}

/// Ports mean something only with a protocol that has them.
pub(super) fn ports_fit(reader: &Reader<'_>, ports: Option<&Node>, protocol: Option<Protocol>) {
    if let (Some(node), Some(protocol)) = (ports, protocol)
        && !protocol.has_ports()
    {
        reader.problem(
            node.place,
            format_args!("ports with the protocol {protocol}, which has none"),
            "remove the ports, or write tcp or udp",
        );
    }
}

/// The rules, and where their names stand.
fn rules(reader: &Reader<'_>, node: &Node, services: &Services) -> (Vec<Rule>, Vec<Place>) {
    const KIND: Kind = Kind {
        one: "a rule",
        bare: "rule",
        many: "rules",
        limit: MAX_RULES,
        fields: &RULE,
        shape: "write `name`, `from`, `to` and `action`",
        example: "client-may-cache",
    };
    let read = entries(reader, node, &KIND, services, |fields, entry| {
        let action = action(reader, fields, "a rule")?;
        let required = fields.get("require");
        let dry_run = fields.get("dry_run");
        let place = entry.place;
        let rule = Rule {
            require: required
                .and_then(|n| require(reader, n, action, &services.roles))
                .unwrap_or_default(),
            dry_run: dry_run
                .and_then(|n| boolean(reader, n, "`dry_run`"))
                .unwrap_or_default(),
            instead: instead(reader, fields, action, entry.protocol, services),
            mirror: super::mirror::mirror(reader, fields, action, services),
            name: entry.name,
            description: entry.description,
            from: entry.from,
            to: entry.to,
            ports: entry.ports,
            protocol: entry.protocol,
            action,
        };
        Some((rule, place))
    });
    read.into_iter().unzip()
}

/// A peer of `from`: it must say who it is, as ports are the destination's.
pub(super) fn source(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<Peer> {
    let peer = peer(reader, node, services)?;
    match &peer {
        Peer::Inline(selector) if !selector.port.is_empty() || selector.protocol.is_some() => {
            reader.problem(
                node.place,
                "`from` with a port or protocol, which belong to the destination",
                "write `ports` and `protocol` in the rule itself",
            );
            None
        }
        Peer::Service(name) => match services.get(name) {
            Some(Some(selector)) if selector.is_listener_only() => {
                reader.problem(
                    node.place,
                    format_args!("`{name}` is known by its port only, which says nothing of a client"),
                    "add `exe` to the service, or write a selector here, such as `{ vm: web1 }`",
                );
                None
            }
            _ => Some(peer),
        },
        _ => Some(peer),
    }
}

pub(super) fn peer(reader: &Reader<'_>, node: &Node, services: &Services) -> Option<Peer> {
    if let Value::Map(_) = node.value {
        return selector(reader, node, "a selector", services).map(|s| Peer::Inline(Box::new(s)));
    }
    match reader.text(node, "a peer")? {
        "any" => Some(Peer::Any),
        "world" => Some(Peer::World),
        "unattributed" => Some(Peer::Unattributed),
        name if services.contains_key(name) => Some(Peer::Service(name.to_owned())),
        name => {
            let known = services.keys().map(String::as_str).chain(PEERS);
            let remedy = match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add it to `services`, or write any, world, unattributed or a selector".to_owned(),
            };
            reader.problem(
                node.place,
                format_args!("no service is named `{}`", shorten(name)),
                remedy,
            );
            None
        }
    }
}
