// SPDX-License-Identifier: GPL-3.0-only
//! Shaping by policy, on real vifs.

use crate::support::{Mesh, Outcome};
use serde_json::Value;
use xmesh_rig::Discard;

const PORT: u16 = 5001;
/// What the guests' vifs carry in all, in kbit/s: far below what the slowest rig's processor can.
const TOTAL: f64 = 4_000.0;
const BYTES: f64 = 1_000_000.0;
/// How often a transfer may be too slow: a rig that the host starves is late with its timers for seconds on end.
const TRIES: usize = 4;

/// Sends from the one guest to the other; what of it arrives per second, in kbit/s on the wire, by the receiver's clock.
fn kbits(mesh: &Mesh, from: &str, to: &str, address: &str) -> Result<f64, Box<dyn std::error::Error>> {
    // The clock begins with the second of its reads: by then the first burst is over.
    let receive = format!(
        "import socket, time\n\
         s = socket.create_server(('', {PORT}))\n\
         c, _ = s.accept()\n\
         n = len(c.recv(60000)); c.settimeout(60)\n\
         t = time.monotonic(); m = 0\n\
         while True:\n  b = c.recv(60000)\n  if not b: break\n  m += len(b)\n\
         print(m * 8 / 1000 / (time.monotonic() - t))\n"
    );
    let sent = format!("sleep 3; head -c {BYTES} /dev/zero | timeout 100 ncat --send-only {address} {PORT}");
    let job = mesh.0.spawn(from, &["sh", "-c", &sent], Discard)?;
    let printed = mesh.0.check(to, &["timeout", "120", "python3", "-c", &receive])?;
    drop(job);
    Ok(printed.trim().parse::<f64>()? * 1514.0 / 1448.0)
}

/// The classes of a guest's vif as `xmesh qos` has them.
fn classes(mesh: &Mesh, domain: &str) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let qos = mesh.json(&["qos", domain])?;
    assert_eq!(qos["vifs"][0]["problem"], Value::Null, "{qos}");
    Ok(qos["vifs"][0]["classes"].as_array().cloned().unwrap_or_default())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_vif_is_shaped_both_ways_and_left_as_it_was() -> Outcome {
    let mesh = Mesh::up()?;
    let policy = format!(
        "policy: shaped\n\
         services:\n  sender: {{ vm: web1, exe: \"**/ncat\" }}\n\
         qos:\n  vms: {{ web1: {{ to_guest: {TOTAL}kbit, from_guest: {TOTAL}kbit }} }}\n  \
         classes:\n  - {{ name: copies, from: sender, to: {{ vm: db1 }}, bandwidth: {{ guarantee: 1mbit }}, priority: bulk, dscp: cs1 }}\n"
    );
    let applied = mesh.apply_text(&policy)?;
    assert!(applied.success(), "{applied:?}");
    // From web1 by process: the class is in the verdict that its connect got.
    for (from, to, address) in [("web1", "db1", "10.0.0.12"), ("db1", "web1", "10.0.0.11")] {
        // Too much is wrong each time; too little once may be the emulator, time after time it is the shaper.
        let mut seen = Vec::new();
        while seen.len() < TRIES && seen.last().is_none_or(|&is| is <= TOTAL * 0.8) {
            let is = kbits(&mesh, from, to, address)?;
            assert!(is < TOTAL * 1.06, "{from}: {is:.0} of {TOTAL} kbit/s");
            seen.push(is);
        }
        assert!(
            seen.last().is_some_and(|&is| is > TOTAL * 0.8),
            "{from}: {seen:.0?} of {TOTAL} kbit/s"
        );
    }
    let all = classes(&mesh, "web1")?;
    let sent = |direction: &str, class: &str| {
        all.iter()
            .find(|c| c["direction"] == direction && c["class"] == class)
            .and_then(|c| c["bytes"].as_f64())
    };
    assert!(sent("out", "shaped/copies") > Some(BYTES), "{all:?}");
    assert!(sent("in", "default") > Some(BYTES), "{all:?}");
    // db1 has no total: its vif has no shaper.
    assert!(
        mesh.json(&["qos", "db1"])?["vifs"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );

    let oversold = policy.replace("guarantee: 1mbit", "guarantee: 11mbit");
    let refused = mesh.apply_text(&oversold)?;
    assert_eq!(refused.status, 1);
    assert!(
        refused.error_text().contains("web1: guarantees of 11Mbit"),
        "{refused:?}"
    );

    mesh.0.check("dom0", &["xmesh", "policy-delete", "shaped"])?;
    let left = mesh
        .0
        .check("dom0", &["sh", "-c", "tc qdisc show; ip -o link show type ifb"])?;
    assert!(!left.contains("htb") && !left.contains("xmi"), "{left}");
    Ok(())
}
