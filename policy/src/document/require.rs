// SPDX-License-Identifier: GPL-3.0-only
//! What must hold beside the two ends for a rule to match.

use serde::{Serialize, Serializer};

use super::Action;
use super::fields::{Fields, Reader};
use super::node::{Node, Value};
use super::roles::{Role, Roles, role};
use super::values::{parsed, shorten};
use crate::flow::Side;
use crate::problem::nearest;
use crate::window::{Days, Hours, Window, Zone};

pub(super) const REQUIRE: [&str; 3] = ["authentication", "role", "time"];
pub(super) const ENDS: [&str; 2] = ["from", "to"];
pub(super) const TIME: [&str; 3] = ["days", "hours", "zone"];

/// What a rule requires; all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Require {
    /// How surely it is known who the ends are.
    #[serde(skip_serializing_if = "Authentication::is_empty")]
    pub authentication: Authentication,
    /// The user who opens the flow has one of these roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub role: Vec<Role>,
    /// One of these is open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time: Vec<Window>,
}

impl Require {
    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.authentication.is_empty() && self.role.is_empty() && self.time.is_empty()
    }
}

/// How surely it is known who each end is. Written as one level where it is the same for both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Who opens the flow; `None`: nothing is required.
    pub from: Option<Level>,
    /// Whom it is opened to.
    pub to: Option<Level>,
}

impl Authentication {
    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        *self == Authentication::default()
    }

    /// What is required of one end.
    pub fn of(&self, side: Side) -> Option<Level> {
        match side {
            Side::Source => self.from,
            Side::Destination => self.to,
        }
    }

    /// Whether `level`, or a higher one, is required of an end.
    pub fn asks(&self, level: Level) -> bool {
        self.from.max(self.to) >= Some(level)
    }
}

impl From<Level> for Authentication {
    fn from(level: Level) -> Self {
        Authentication {
            from: Some(level),
            to: Some(level),
        }
    }
}

impl Serialize for Authentication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.from == self.to {
            return self.from.serialize(serializer);
        }
        let ends = [("from", self.from), ("to", self.to)];
        serializer.collect_map(ends.into_iter().filter_map(|(end, level)| Some((end, level?))))
    }
}

/// How surely it is known who an end is. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is a guest's: its vif is known, and its address is one that dom0 gave it and that a lock holds it to.
    Network,
    /// A process was seen to own it, too.
    Process,
    /// The text of its executable, in the guest's memory, is that of one of the [`super::Program`]s, too.
    Measured,
}

impl Level {
    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Network => "network",
            Level::Process => "process",
            Level::Measured => "measured",
        }
    }
}

pub(super) fn require(reader: &Reader<'_>, node: &Node, action: Action, roles: &Roles) -> Option<Require> {
    const EXAMPLE: &str =
        "write `{ authentication: process }`, `{ role: NAME }` or `{ time: { hours: 08:00-18:00 } }`";
    if !matches!(node.value, Value::Map(_)) {
        let what = format_args!("`require` is {}, not a mapping", node.value.kind());
        reader.problem(node.place, what, EXAMPLE);
        return None;
    }
    let fields = reader.fields(node, "`require`", &REQUIRE);
    if REQUIRE.iter().all(|field| fields.get(field).is_none()) {
        reader.problem(node.place, "`require` requires nothing", EXAMPLE);
        return None;
    }
    if matches!(action, Action::Deny { .. }) {
        not_of_a_deny(reader, &fields);
    }
    Some(Require {
        authentication: fields
            .get("authentication")
            .and_then(|n| authentication(reader, n))
            .unwrap_or_default(),
        role: fields
            .get("role")
            .map(|n| reader.list(n, "`role`", |one| role(reader, one, roles)))
            .unwrap_or_default(),
        time: fields
            .get("time")
            .map(|n| reader.list(n, "`time`", |one| window(reader, one)))
            .unwrap_or_default(),
    })
}

/// Somebody who writes that a deny requires a role means that it does not deny those who have it, which is another rule.
fn not_of_a_deny(reader: &Reader<'_>, fields: &Fields<'_>) {
    if let Some(node) = fields.get("authentication") {
        reader.problem(
            node.place,
            "a rule that denies requires authentication: it would deny only who is known",
            "require it in the rule that allows, with a `default` of deny",
        );
    }
    if let Some(node) = fields.get("role") {
        reader.problem(
            node.place,
            "a rule that denies requires a role: it would deny only those who have it",
            "write `from: { role: NAME }` for that; to let only them pass, require it in the rule that allows, with a \
             `default` of deny",
        );
    }
}

/// A level for both ends, or one for each.
fn authentication(reader: &Reader<'_>, node: &Node) -> Option<Authentication> {
    if !matches!(node.value, Value::Map(_)) {
        return level(reader, node).map(Authentication::from);
    }
    let fields = reader.fields(node, "`authentication`", &ENDS);
    if ENDS.iter().all(|end| fields.get(end).is_none()) {
        reader.problem(
            node.place,
            "`authentication` requires nothing",
            "write a level, or one for each end, as in `{ from: measured, to: process }`",
        );
        return None;
    }
    let of = |end: &str| fields.get(end).and_then(|n| level(reader, n));
    Some(Authentication {
        from: of("from"),
        to: of("to"),
    })
}

fn level(reader: &Reader<'_>, node: &Node) -> Option<Level> {
    let text = reader.text(node, "`authentication`")?;
    let levels = [Level::Network, Level::Process, Level::Measured];
    if let Some(level) = levels.into_iter().find(|level| level.as_str() == text) {
        return Some(level);
    }
    let remedy = match nearest(text, levels.map(Level::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write network, process or measured".to_owned(),
    };
    reader.problem(
        node.place,
        format_args!("`{}` is not a level of authentication", shorten(text)),
        remedy,
    );
    None
}

fn window(reader: &Reader<'_>, node: &Node) -> Option<Window> {
    const EXAMPLE: &str = "write it as `{ days: mon-fri, hours: 08:00-18:00, zone: +02:00 }`";
    if !matches!(node.value, Value::Map(_)) {
        let what = format_args!("a time is {}, not a mapping", node.value.kind());
        reader.problem(node.place, what, EXAMPLE);
        return None;
    }
    let fields = reader.fields(node, "`time`", &TIME);
    if fields.get("days").is_none() && fields.get("hours").is_none() {
        reader.problem(node.place, "`time` says neither days nor hours", EXAMPLE);
        return None;
    }
    let text = |field: &str| {
        let node = fields.get(field)?;
        Some((node.place, reader.text(node, field)?))
    };
    let days = fields.get("days").map(|node| {
        let all = reader.list(node, "`days`", |one| {
            parsed::<Days>(reader, one.place, reader.text(one, "a day")?)
        });
        all.into_iter().reduce(Days::and)
    });
    let hours = match text("hours") {
        Some((place, text)) => parsed::<Hours>(reader, place, text),
        None => Some(Hours::ALL),
    };
    let zone = match text("zone") {
        Some((place, text)) => parsed::<Zone>(reader, place, text),
        None => Some(Zone::default()),
    };
    Some(Window {
        // What was written and is wrong has been noted.
        days: days.map_or(Some(Days::ALL), |days| days)?,
        hours: hours?,
        zone: zone?,
    })
}
