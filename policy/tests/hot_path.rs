// SPDX-License-Identifier: GPL-3.0-only
//! Deciding is done while a vCPU waits: it must allocate nothing and not grow with the policy.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use policy::{Document, Endpoint, Flow, Process, Protocol, Ruleset, Verdict, VmId};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local without
// a destructor, so touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `n` services of a VM each, `n` rules between neighbours, and some rules for outside and for all.
fn policy(n: usize) -> Ruleset {
    ruleset(&text(n))
}

/// The same, with a class of bandwidth for each pair of neighbours.
fn policy_with_classes(n: usize) -> Ruleset {
    let mut text = text(n);
    text.push_str("qos:\n  classes:\n");
    for i in 0..n {
        text.push_str(&format!(
            "  - {{ name: c{i}, from: s{i}, to: s{}, priority: bulk }}\n",
            (i + 1) % n
        ));
    }
    ruleset(&text)
}

fn text(n: usize) -> String {
    let mut text = String::from("policy: big\ndefault: { \"*\": deny }\nservices:\n");
    for i in 0..n {
        text.push_str(&format!(
            "  s{i}: {{ vm: vm{i}, exe: \"/usr/bin/app-*\", uid: 1000-2000, port: {} }}\n",
            1000 + i
        ));
    }
    text.push_str("rules:\n");
    for i in 0..n {
        text.push_str(&format!(
            "- {{ name: r{i}, from: s{i}, to: s{}, action: allow }}\n",
            (i + 1) % n
        ));
    }
    for i in 0..n.min(200) {
        text.push_str(&format!(
            "- {{ name: out{i}, from: s{i}, to: {{ address: 10.{}.{}.0/24 }}, action: allow }}\n",
            i / 200,
            i % 200
        ));
    }
    text.push_str("- { name: no-telnet, from: any, to: any, ports: 23, action: deny }\n");
    text
}

fn ruleset(text: &str) -> Ruleset {
    let document = Document::parse("big.yaml", text).unwrap();
    Ruleset::compile(&[document], 1).unwrap()
}

struct Case {
    from: VmId,
    to: VmId,
    port: u16,
}

impl Case {
    fn new(i: usize, n: usize) -> Self {
        let vm = |i| VmId::new(format!("vm{i}"), [0; 16]);
        let next = (i + 1) % n;
        Case {
            from: vm(i),
            to: vm(next),
            port: u16::try_from(1000 + next % 60_000).unwrap(),
        }
    }

    fn flow(&self) -> Flow<'_> {
        let app = Process {
            exe: Some("/usr/bin/app-server"),
            uid: 1500,
            ..Process::default()
        };
        let end = |vm| Endpoint::guest(vm, [10, 255, 7, 9].into()).with_process(app);
        Flow {
            protocol: Protocol::TCP,
            source: end(&self.from),
            destination: end(&self.to),
            port: self.port,
        }
    }
}

/// `n` guests of which each has labels that tell it apart, and some that they share; rules between neighbours by label.
fn labelled(n: usize) -> (Ruleset, Vec<Case>) {
    let mut text = String::from("policy: big\ndefault: { \"*\": deny }\nlabels:\n");
    for i in 0..n {
        text.push_str(&format!(
            "  vm{i}: {{ app: app{i}, env: prod, tier: tier{}, zone: zone{} }}\n",
            i % 10,
            i % 3
        ));
    }
    text.push_str("rules:\n");
    for i in 0..n {
        let next = (i + 1) % n;
        text.push_str(&format!(
            "- {{ name: r{i}, from: {{ label: {{ app: app{i} }}, exe: \"/usr/bin/app-*\" }}, \
             to: {{ label: {{ app: app{next}, env: prod }} }}, ports: {}, action: allow }}\n",
            1000 + next % 60_000
        ));
    }
    for i in 0..10 {
        text.push_str(&format!(
            "- {{ name: tier{i}, from: {{ label: {{ tier: tier{i} }} }}, to: {{ label: {{ zone: \"z*\", tier: tier{} }} }}, ports: 9999, action: allow }}\n",
            (i + 5) % 10
        ));
    }
    let ruleset = ruleset(&text);
    let cases = (0..64).map(|i| {
        let case = Case::new(i * n / 64, n);
        let known = |vm: &VmId| ruleset.known(vm);
        Case {
            from: known(&case.from),
            to: known(&case.to),
            ..case
        }
    });
    let cases = cases.collect();
    (ruleset, cases)
}

#[test]
fn deciding_by_label_allocates_nothing() {
    let (ruleset, cases) = labelled(640);
    let before = ALLOCATIONS.with(Cell::get);
    for case in &cases {
        let flow = case.flow();
        assert_eq!(ruleset.decide(&flow).verdict, Verdict::Allow);
        let other = Flow { port: 9, ..flow };
        assert_eq!(ruleset.decide(&other).verdict, Verdict::Deny);
        black_box(ruleset.decide_for_any_process(&flow));
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}

#[test]
fn deciding_allocates_nothing() {
    let n = 300;
    let ruleset = policy_with_classes(n);
    let cases: Vec<Case> = (0..n).map(|i| Case::new(i, n)).collect();
    let before = ALLOCATIONS.with(Cell::get);
    for case in &cases {
        let flow = case.flow();
        let decision = ruleset.decide(&flow);
        assert_eq!(decision.verdict, Verdict::Allow);
        assert!(decision.class.is_some());
        let other = Flow { port: 9, ..flow };
        assert_eq!(ruleset.decide(&other).verdict, Verdict::Deny);
        black_box(ruleset.decide_for_any_process(&flow));
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), before);
}

/// Nanoseconds per decision, the best of some rounds: other work on the machine only ever adds.
fn cost(n: usize, ruleset: Ruleset) -> f64 {
    cost_of(
        &ruleset,
        &(0..64).map(|i| Case::new(i * n / 64, n)).collect::<Vec<Case>>(),
    )
}

fn cost_of(ruleset: &Ruleset, cases: &[Case]) -> f64 {
    let round = || {
        let start = Instant::now();
        for _ in 0..20 {
            for case in cases {
                black_box(ruleset.decide(black_box(&case.flow())));
            }
        }
        start.elapsed().as_nanos() as f64 / (20 * cases.len()) as f64
    };
    (0..50).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// So many documents of so many services and rules each, whose names and ports go on from one to the next.
fn many(documents: usize, each: usize) -> Vec<Arc<Document>> {
    let text = |n: usize| {
        let mut text = format!("policy: p{n:04}\nservices:\n");
        let (first, all) = (n * each, documents * each);
        let service = |i: usize| {
            let port = 1000 + i % 60_000;
            format!("{{ vm: vm{i}, exe: \"/usr/bin/app-*\", uid: 1000-2000, port: {port} }}")
        };
        for i in first..first + each {
            text.push_str(&format!("  s{i}: {}\n", service(i)));
        }
        text.push_str("rules:\n");
        for i in first..first + each {
            let to = service((i + 1) % all);
            text.push_str(&format!(
                "- {{ name: r{i}, from: s{i}, to: {to}, action: allow }}\n"
            ));
        }
        text
    };
    (0..documents)
        .map(|n| Arc::new(Document::parse("p.yaml", &text(n)).unwrap()))
        .collect()
}

#[test]
fn cost_does_not_grow_with_the_policy() {
    let (small, large) = (cost(64, policy(64)), cost(6_400, policy(6_400)));
    // Without optimisation a tenth must do.
    let each = if cfg!(debug_assertions) { 100 } else { 1000 };
    let rules = 100 * each;
    let documents = many(100, each);
    let begun = Instant::now();
    let all = Ruleset::empty(0).changed(documents.clone(), 1).unwrap();
    let whole = begun.elapsed().as_secs_f64() * 1e3;
    let changed = (0..20).map(|n| {
        let mut documents = documents.clone();
        let text = serde_json::to_string(&*documents[n * 5]).unwrap();
        documents[n * 5] = Arc::new(Document::parse("changed", &text).unwrap());
        let begun = Instant::now();
        let changed = all.changed(documents, 2).unwrap();
        let took = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(changed.rule_names().count(), rules);
        took
    });
    let changed = changed.fold(f64::INFINITY, f64::min);
    let huge = cost(rules, all);
    let classed = cost(900, policy_with_classes(900));
    let (ruleset, cases) = labelled(4_000);
    let by_label = cost_of(&ruleset, &cases);
    // Read by `cargo xtask bench policy`.
    println!("bench: {small:.0} ns a decision among 129 rules");
    println!("bench: {large:.0} ns a decision among 6601 rules");
    println!("bench: {huge:.0} ns a decision among {rules} rules of 100 documents");
    println!("bench: {whole:.0} ms to compile {rules} rules of 100 documents");
    println!("bench: {changed:.1} ms to compile a change of one of them");
    println!("bench: {classed:.0} ns a decision among 1101 rules, and a class among 900");
    println!("bench: {by_label:.0} ns a decision among 4010 rules by label");
    // A hundred times the rules: caches may miss more, a scan of all would show as a factor near 100.
    assert!(large < small * 10.0, "{small:.0} ns, then {large:.0} ns");
    assert!(huge < small * 10.0, "{small:.0} ns, then {huge:.0} ns");
    assert!(
        by_label < small * 10.0,
        "{small:.0} ns, by label {by_label:.0} ns"
    );
    assert!(changed < whole / 3.0, "{whole:.0} ms, then {changed:.0} ms");
    assert!(
        classed < small * 10.0,
        "{small:.0} ns, with classes {classed:.0} ns"
    );
}
