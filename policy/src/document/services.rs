// SPDX-License-Identifier: GPL-3.0-only
//! Services: selectors with names, and the versions of them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::fields::Reader;
use super::node::{Key, Node, Value};
use super::read::{PEERS, SELECTOR, selector_but};
use super::roles::Roles;
use super::values::plain_name;
use super::{Selector, XenFacts};

/// What people call a group of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// What all its versions have.
    #[serde(flatten)]
    pub selector: Selector,
    /// What each of its versions has besides. None says what the service says already.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, Selector>,
}

impl Service {
    /// All selectors of it with the names by which rules know them: `name`, and `name@version`.
    pub fn selectors(&self, name: &str) -> impl Iterator<Item = (String, Selector)> {
        let versions = self.versions.iter();
        let versions =
            versions.map(move |(version, more)| (versioned(name, version), self.selector.with(more)));
        std::iter::once((name.to_owned(), self.selector.clone())).chain(versions)
    }
}

/// What rules call a version.
fn versioned(service: &str, version: &str) -> String {
    format!("{service}@{version}")
}

impl Selector {
    /// What both say; of a condition that both say what `more` does.
    fn with(&self, more: &Selector) -> Selector {
        fn or<T: Clone>(more: &[T], all: &[T]) -> Vec<T> {
            if more.is_empty() { all } else { more }.to_vec()
        }
        Selector {
            vm: or(&more.vm, &self.vm),
            address: or(&more.address, &self.address),
            exe: or(&more.exe, &self.exe),
            arg: or(&more.arg, &self.arg),
            uid: or(&more.uid, &self.uid),
            role: or(&more.role, &self.role),
            container: or(&more.container, &self.container),
            parent: or(&more.parent, &self.parent),
            port: or(&more.port, &self.port),
            protocol: more.protocol.or(self.protocol),
            // The keys of both are apart.
            label: self
                .label
                .iter()
                .chain(&more.label)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            xen: XenFacts {
                guest_type: or(&more.xen.guest_type, &self.xen.guest_type),
                pool: or(&more.xen.pool, &self.xen.pool),
            },
        }
    }
}

/// What names of a document mean, for what uses them.
#[derive(Default)]
pub(super) struct Services {
    /// Services, and versions as `service@version`. `None` where the name stands but its selector is wrong, so that rules that
    /// use it are not told that it is unknown.
    by_name: HashMap<String, Option<Selector>>,
    pub roles: Roles,
}

impl Services {
    pub(super) fn get(&self, name: &str) -> Option<&Option<Selector>> {
        self.by_name.get(name)
    }

    pub(super) fn contains_key(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }
}

/// Reads the services. Gives what the names mean, and what a document keeps.
pub(super) fn services(
    reader: &Reader<'_>,
    node: Option<&Node>,
    roles: Roles,
) -> (Services, BTreeMap<String, Service>) {
    let mut known = Services {
        by_name: HashMap::new(),
        roles,
    };
    let mut written = BTreeMap::new();
    let entries = node.map(|n| reader.entries(n, "`services`")).unwrap_or_default();
    for (key, value) in entries {
        let service = service(reader, value, &known);
        if PEERS.contains(&key.text.as_str()) {
            reader.problem(
                key.place,
                format_args!(
                    "`{}` has a meaning of its own and cannot name a service",
                    key.text
                ),
                format_args!("name it otherwise, such as `my-{}`", key.text),
            );
            continue;
        }
        let name = plain_name(reader, key.place, &key.text, "the name of a service");
        match (name, service) {
            (Some(name), Some(service)) => {
                let all = service.selectors(&name);
                known
                    .by_name
                    .extend(all.map(|(name, selector)| (name, Some(selector))));
                written.insert(name, service);
            }
            _ => wrong(&mut known, key, value),
        }
    }
    (known, written)
}

/// The names of a service that is not valid stand all the same.
fn wrong(known: &mut Services, key: &Key, node: &Node) {
    known.by_name.insert(key.text.clone(), None);
    let Some(versions) = field(node, "versions") else {
        return;
    };
    if let Value::Map(versions) = &versions.value {
        let names = versions
            .iter()
            .map(|(version, _)| versioned(&key.text, &version.text));
        known.by_name.extend(names.map(|name| (name, None)));
    }
}

fn field<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Map(map) => map.iter().find(|(key, _)| key.text == name).map(|(_, node)| node),
        _ => None,
    }
}

fn service(reader: &Reader<'_>, node: &Node, known: &Services) -> Option<Service> {
    let selector = selector_but(reader, node, "a service", known, &["versions"])?;
    let mut versions = BTreeMap::new();
    let mut good = true;
    let entries = field(node, "versions").map(|n| reader.entries(n, "`versions`"));
    for (key, value) in entries.unwrap_or_default() {
        let name = plain_name(reader, key.place, &key.text, "the name of a version");
        let more = selector_but(reader, value, "a version", known, &[]);
        good &= is_apart(reader, node, key, value);
        match (name, more) {
            (Some(name), Some(more)) => {
                versions.insert(name, more);
            }
            _ => good = false,
        }
    }
    good.then_some(Service { selector, versions })
}

/// Whether a version says nothing that its service says. Two lists for one condition would have to be read as either or as both.
fn is_apart(reader: &Reader<'_>, service: &Node, version: &Key, node: &Node) -> bool {
    let mut apart = true;
    let mut both = |place, name: &str| {
        apart = false;
        reader.problem(
            place,
            format_args!("version `{}` says `{name}`, as its service does", version.text),
            "say it in one of the two: in the service what all versions have, in each version what it alone has",
        );
    };
    for name in SELECTOR {
        let (Some(of_service), Some(node)) = (field(service, name), field(node, name)) else {
            continue;
        };
        match (&of_service.value, &node.value) {
            // Each of their fields is a condition of its own.
            (Value::Map(_), Value::Map(map)) => {
                let again = map
                    .iter()
                    .filter(|(key, _)| field(of_service, &key.text).is_some());
                again.for_each(|(key, _)| both(key.place, &format!("{name}: {}", key.text)));
            }
            _ => both(node.place, name),
        }
    }
    apart
}
