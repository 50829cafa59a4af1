// SPDX-License-Identifier: GPL-3.0-only
//! Policy sets and explanations.

use policyd_api::{Applied, Explained, Party, PolicySummary, Verdict};

use super::table::{Align::Left, Align::Right, Table};
use super::time::timestamp;
use super::{multiline, plain};

/// `xmesh policy-list`.
pub fn list(policies: &[PolicySummary]) -> String {
    let mut table = Table::new(&[
        ("Name", Left),
        ("Services", Right),
        ("Rules", Right),
        ("Routes", Right),
        ("Generation", Right),
        ("Applied", Left),
        ("By", Right),
        ("Description", Left),
    ]);
    for p in policies {
        // To the second: nobody tells two policies apart by less.
        let applied = timestamp(p.applied_ns);
        table.row([
            p.name.clone(),
            p.services.to_string(),
            p.rules.to_string(),
            p.routes.to_string(),
            p.generation.to_string(),
            format!("{}Z", applied.split('.').next().unwrap_or_default()),
            p.by_name.clone().unwrap_or_else(|| p.by_uid.to_string()),
            p.description.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// What a change did: `done` says it, as "applied".
pub fn applied(applied: &Applied, done: &str) -> String {
    let names = match applied.names.as_slice() {
        [] => "nothing".to_owned(),
        names => plain(&names.join(", ")),
    };
    if applied.dry_run {
        let would = match applied.names.as_slice() {
            [] => "nothing would change".to_owned(),
            [_] => format!("{names} is valid and would change"),
            _ => format!("{names} are valid and would change"),
        };
        return format!("{would}; generation {} stays in force\n", applied.generation);
    }
    let flows = match applied.flows_changed {
        1 => "1 live flow".to_owned(),
        n => format!("{n} live flows"),
    };
    format!(
        "{names} {done}; generation {} in force, {flows} changed\n",
        applied.generation
    )
}

/// `xmesh explain`.
pub fn explained(explained: &Explained) -> String {
    let verdict = match explained.decision.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let mut out = format!(
        "{verdict} by {}, generation {}\nfrom  {}\nto    {}\n",
        plain(&explained.decision.rule),
        explained.decision.generation,
        party(&explained.from),
        party(&explained.to)
    );
    for line in &explained.why {
        out.push_str(&format!("  {}\n", multiline(line).replace('\n', "\n  ")));
    }
    out
}

fn party(party: &Party) -> String {
    let services = match party.services.as_slice() {
        [] => "no service".to_owned(),
        some => some.join(", "),
    };
    plain(&format!("{} ({services})", party.id))
}
