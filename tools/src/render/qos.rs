// SPDX-License-Identifier: GPL-3.0-only
//! Shaping of vifs.

use policyd_api::Qos;

use super::plain;
use super::table::{Align::Left, Align::Right, Table};
use super::time::bytes;

/// `xmesh qos`.
pub fn table(qos: &Qos) -> String {
    let mut table = Table::new(&[
        ("Vif", Left),
        ("Dir", Left),
        ("Class", Left),
        ("Priority", Left),
        ("Rate", Right),
        ("Ceil", Right),
        ("Sent", Right),
        ("Drops", Right),
        ("Backlog", Right),
        ("Domain", Left),
    ]);
    for vif in &qos.vifs {
        for class in &vif.classes {
            table.row([
                vif.vif.clone(),
                class.direction.clone(),
                class.class.clone(),
                class.priority.clone().unwrap_or_default(),
                rate(class.rate),
                rate(class.ceiling),
                bytes(class.bytes),
                class.drops.to_string(),
                bytes(class.backlog_bytes.into()),
                vif.domain.clone(),
            ]);
        }
    }
    let mut out = table.render();
    out.push_str(&format!("shaper: {}\n", plain(&qos.shaper)));
    for vif in &qos.vifs {
        if let Some(problem) = &vif.problem {
            out.push_str(&format!(
                "problem of {}: {}\n",
                plain(&vif.domain),
                plain(problem)
            ));
        }
    }
    out
}

/// As documents write it, in the largest unit that leaves at least one; three digits tell.
fn rate(bits: u64) -> String {
    for (unit, name) in [(1e9, "gbit"), (1e6, "mbit"), (1e3, "kbit")] {
        let value = bits as f64 / unit;
        if value >= 1.0 {
            let decimals = match value {
                _ if value.fract() < 0.005 || value >= 100.0 => 0,
                _ if value >= 10.0 => 1,
                _ => 2,
            };
            return format!("{value:.decimals$}{name}");
        }
    }
    format!("{bits}bit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_as_short_as_they_can_be() {
        assert_eq!(rate(10_000_000), "10mbit");
        assert_eq!(rate(1_500_000), "1.50mbit");
        assert_eq!(rate(100_000_000_000), "100gbit");
        assert_eq!(rate(33_333_333), "33.3mbit");
        assert_eq!(rate(8), "8bit");
    }
}
