// SPDX-License-Identifier: GPL-3.0-only
//! What a decision costs in instructions, as the rig's emulator counts them: a part of `cargo xtask bench trap`.

use std::hint::black_box;

use policy::{Document, Endpoint, Flow, Process, Protocol, Ruleset, VmId};

#[path = "../../vmi-xen/examples/support/counters.rs"]
mod counters;

/// Rules of the policy.
const RULES: usize = 1000;
/// Decisions that are measured.
const DECISIONS: usize = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let counters = counters::Counters::find().ok_or("only the Bochs that the rig builds counts")?;
    let mut text = String::from("policy: big\nservices:\n");
    for i in 0..RULES {
        text += &format!("  s{i}: {{ vm: vm{i}, exe: \"/usr/bin/app-*\", uid: 1000-2000, port: 80 }}\n");
    }
    text += "rules:\n";
    for i in 0..RULES {
        let next = (i + 1) % RULES;
        text += &format!("- {{ name: r{i}, from: s{i}, to: s{next}, action: allow }}\n");
    }
    let rules = Ruleset::compile(&[Document::parse("big.yaml", &text)?], 1)?;
    let vm = |i: usize| VmId::new(format!("vm{}", i % RULES), [0; 16]);
    let app = Process {
        exe: Some("/usr/bin/app-server"),
        uid: 1500,
        ..Process::default()
    };
    let mut costs: Vec<u64> = (0..DECISIONS)
        .map(|i| {
            let (from, to) = (vm(i), vm(i + 1));
            let flow = Flow {
                protocol: Protocol::TCP,
                source: Endpoint::guest(&from, [10, 0, 0, 1].into()).with_process(app),
                destination: Endpoint::guest(&to, [10, 0, 0, 2].into()).with_process(app),
                port: 80,
            };
            let before = counters.instructions();
            black_box(rules.decide(black_box(&flow)));
            counters.instructions() - before
        })
        .collect();
    costs.sort_unstable();
    println!(
        "bench: {} instructions a decision among {RULES} rules, median",
        costs[DECISIONS / 2]
    );
    Ok(())
}
