// SPDX-License-Identifier: GPL-3.0-only
//! Roles: named sets of users and groups of guests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::VmPattern;
use super::fields::Reader;
use super::node::{Node, Value};
use super::values::{ids, patterns, plain_name, shorten};
use crate::port::UidRange;
use crate::problem::nearest;

pub(super) const USERS: [&str; 4] = ["vm", "uid", "gid", "loginuid"];

/// Users of guests. Every condition that is said must hold; of a list, one value is enough. At least one of `uid`, `gid` and
/// `loginuid` is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Users {
    /// The guests whose users these are; empty: every guest of this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vm: Vec<VmPattern>,
    /// Effective user ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uid: Vec<UidRange>,
    /// Groups: the effective one or a supplementary one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gid: Vec<UidRange>,
    /// User ids of logins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loginuid: Vec<UidRange>,
}

/// A role where it is asked for: serialised as its name, for the document has what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name in the set.
    pub name: Arc<str>,
    /// Who has it: one of these.
    pub users: Arc<[Users]>,
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// Roles by name; `None` where the name stands and what it says is wrong, which is told once.
pub(super) type Roles = HashMap<String, Option<Role>>;

pub(super) fn roles(reader: &Reader<'_>, node: &Node) -> Roles {
    let mut roles = Roles::new();
    for (key, value) in reader.entries(node, "`roles`") {
        let written = reader.list(value, "a role", |one| users(reader, one));
        let name = plain_name(reader, key.place, &key.text, "the name of a role");
        let role = name.filter(|_| !written.is_empty()).map(|name| Role {
            name: name.into(),
            users: written.into(),
        });
        roles.insert(key.text.clone(), role);
    }
    roles
}

/// What a document keeps of them.
pub(super) fn written(roles: &Roles) -> BTreeMap<String, Arc<[Users]>> {
    let good = roles.values().flatten();
    good.map(|role| (role.name.to_string(), Arc::clone(&role.users)))
        .collect()
}

fn users(reader: &Reader<'_>, node: &Node) -> Option<Users> {
    const EXAMPLE: &str = "write `uid`, `gid` or `loginuid`, as in `{ vm: \"web*\", uid: 1000 }`";
    let Value::Map(map) = &node.value else {
        reader.problem(
            node.place,
            format_args!("users of a role are {}, not a mapping", node.value.kind()),
            EXAMPLE,
        );
        return None;
    };
    // Names are files of the guest, which nobody outside can believe.
    let name = |text: &str| matches!(text, "user" | "group" | "name" | "username");
    if let Some((key, _)) = map.iter().find(|(key, _)| name(&key.text)) {
        reader.problem(
            key.place,
            format_args!(
                "`{}` in a role: only numbers of users and groups are seen from outside",
                key.text
            ),
            "write `uid` or `gid` with the number that `id NAME` prints in the guest",
        );
        return None;
    }
    let fields = reader.fields(node, "a role", &USERS);
    let numbers = |field: &str| {
        let node = fields.get(field);
        node.map(|n| ids(reader, n, field)).unwrap_or_default()
    };
    let users = Users {
        vm: patterns(reader, fields.get("vm"), "`vm`", VmPattern::from),
        uid: numbers("uid"),
        gid: numbers("gid"),
        loginuid: numbers("loginuid"),
    };
    if ["uid", "gid", "loginuid"]
        .iter()
        .all(|field| fields.get(field).is_none())
    {
        reader.problem(node.place, "a role does not say whose it is", EXAMPLE);
        return None;
    }
    Some(users)
}

/// A role by its name.
pub(super) fn role(reader: &Reader<'_>, node: &Node, roles: &Roles) -> Option<Role> {
    let name = reader.text(node, "`role`")?;
    if let Some(known) = roles.get(name) {
        return known.clone();
    }
    let remedy = match nearest(name, roles.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "add it to `roles`".to_owned(),
    };
    reader.problem(
        node.place,
        format_args!("no role is named `{}`", shorten(name)),
        remedy,
    );
    None
}
