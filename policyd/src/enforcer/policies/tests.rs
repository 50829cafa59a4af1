// SPDX-License-Identifier: GPL-3.0-only
//! Changes as they are prepared, stored, taken back and gone back to, on a real store.

use std::path::Path;

use super::*;
use crate::control::author;
use policyd_store::{Config, Scope};

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    policies: Policies,
}

fn open(path: &Path) -> Store {
    let config = Config {
        reserve: 0,
        ballast: 0,
        ..Config::default()
    };
    Store::open(path, config).expect("opens")
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(&dir.path().join("store"));
        let (policies, problems) = Policies::load(store.clone()).expect("loads");
        assert!(problems.is_empty(), "{problems:?}");
        Fixture { dir, store, policies }
    }

    /// As the enforcer does it, where nothing can go wrong at the vifs.
    fn try_to(&mut self, request: &Request) -> Result<Vec<String>, DaemonError> {
        let prepared = self.policies.prepare(request)?;
        let names = prepared.names();
        self.policies.store_change(&prepared)?;
        self.policies.release();
        self.policies.adopt(prepared);
        assert_eq!(
            self.store.generation().expect("reads"),
            self.policies.generation()
        );
        Ok(names)
    }

    fn apply(&mut self, texts: &[&str]) -> Vec<String> {
        self.try_to(&apply(texts)).expect("valid")
    }

    fn descriptions(&self) -> Vec<(String, String)> {
        let of = |p: PolicySummary| (p.name, p.description.unwrap_or_default());
        self.policies.list().into_iter().map(of).collect()
    }
}

fn wish(wish: Wish) -> Request {
    Request {
        wish,
        by: author(0),
        message: Some("why".into()),
        if_generation: None,
        dry_run: false,
    }
}

fn apply(texts: &[&str]) -> Request {
    let documents = texts.iter().enumerate().map(|(i, text)| SourceText {
        file: format!("{i}.yaml"),
        text: (*text).into(),
    });
    wish(Wish::Apply(documents.collect()))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
}

const A1: &str = "policy: a\ndescription: first\n";
const A2: &str = "policy: a\ndescription: second\n";
const B: &str = "policy: b\ndescription: b\n";

#[test]
fn a_change_that_is_taken_back_leaves_the_store_as_it_was() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    fixture.apply(&[B]);
    for text in [A2, "policy: c\n"] {
        let prepared = fixture.policies.prepare(&apply(&[text])).expect("valid");
        let undo = fixture.policies.store_change(&prepared).expect("stores");
        fixture.policies.take_back(undo, "the vifs").expect("takes back");
    }
    assert_eq!(fixture.store.generation().expect("reads"), 2);
    let (history, _) = fixture.store.history(u64::MAX, 10, None).expect("reads");
    assert_eq!(history.len(), 2);
    let chain = fixture.store.chain().expect("reads");
    assert_eq!(chain.verify(), Ok(()));
    assert_eq!(chain.entries.len(), 6);
    let last = &chain.entries[5].attempt.outcome;
    assert!(
        matches!(last, Outcome::Withdrawn { generation: 3, why } if why == "the vifs"),
        "{last:?}"
    );
    let (again, problems) = Policies::load(fixture.store.clone()).expect("loads");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(again.list().len(), 2);
    assert_eq!(again.list()[0].description.as_deref(), Some("first"));
}

#[test]
fn several_documents_are_one_generation_or_none() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.apply(&[A1, B]), ["a", "b"]);
    assert_eq!(fixture.policies.generation(), 1);
    let error = fixture
        .try_to(&apply(&[A2, "policy: [\n", "rules: []\n"]))
        .expect_err("invalid");
    // The problems of all are told.
    let text = error.to_string();
    assert!(
        text.contains("1.yaml:1:9") && text.contains("2.yaml:1:1"),
        "{text}"
    );
    let error = fixture.try_to(&apply(&[A1, A2])).expect_err("twice").to_string();
    assert!(error.contains("0.yaml and 1.yaml are both the set a"), "{error}");
    assert_eq!(fixture.descriptions(), pairs(&[("a", "first"), ("b", "b")]));
    assert_eq!(fixture.policies.generation(), 1);
}

#[test]
fn a_rollback_is_a_new_generation_with_the_sets_of_then() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    fixture.apply(&[A2, B]);
    fixture.try_to(&wish(Wish::Delete("a".into()))).expect("deletes");
    assert_eq!(fixture.descriptions(), pairs(&[("b", "b")]));
    assert_eq!(
        fixture.try_to(&wish(Wish::Rollback(1))).expect("goes back"),
        ["a", "b"]
    );
    assert_eq!(fixture.policies.generation(), 4);
    assert_eq!(fixture.descriptions(), pairs(&[("a", "first")]));
    // And forth again; what is as it was is not touched.
    assert_eq!(
        fixture.try_to(&wish(Wish::Rollback(2))).expect("goes forth"),
        ["a", "b"]
    );
    assert_eq!(fixture.descriptions(), pairs(&[("a", "second"), ("b", "b")]));
    assert!(
        fixture
            .try_to(&wish(Wish::Rollback(2)))
            .expect("is so")
            .is_empty()
    );
    // To before everything.
    assert_eq!(
        fixture.try_to(&wish(Wish::Rollback(0))).expect("goes back"),
        ["a", "b"]
    );
    assert!(fixture.descriptions().is_empty());
    let error = fixture.try_to(&wish(Wish::Rollback(99))).expect_err("not kept");
    assert!(matches!(error, DaemonError::NoSuchGeneration(_)), "{error}");
    let (history, _) = fixture.store.history(u64::MAX, 100, None).expect("reads");
    assert_eq!(history[0].to, Some(0));
    assert_eq!(history[0].by.name.as_deref(), Some("root"));
    assert_eq!(history[0].message.as_deref(), Some("why"));
}

#[test]
fn a_rollback_to_what_is_no_longer_valid_is_refused_whole() {
    let mut fixture = Fixture::new();
    // A text of a version of policyd with another language.
    let old = policyd_store::Change {
        generation: 1,
        time_ns: 1,
        by: author(0),
        action: Action::Apply,
        to: None,
        message: None,
        what: "old".into(),
        edits: vec![(
            "old".into(),
            Some(("old.yaml".into(), "policy: old\nforms: 1\n".into())),
        )],
        continues: None,
        stage: None,
    };
    fixture.store.commit(&old).expect("stores");
    let (policies, problems) = Policies::load(fixture.store.clone()).expect("loads");
    assert!(
        problems[0].contains("policy old is not in force: old.yaml:2:1"),
        "{problems:?}"
    );
    fixture.policies = policies;
    // It can be deleted all the same.
    fixture
        .try_to(&wish(Wish::Delete("old".into())))
        .expect("deletes");
    fixture.apply(&[A1]);
    let error = fixture
        .try_to(&wish(Wish::Rollback(1)))
        .expect_err("not valid")
        .to_string();
    assert!(
        error.contains("generation 1 cannot be put in force") && error.contains("old.yaml:2:1"),
        "{error}"
    );
    assert_eq!(fixture.descriptions(), pairs(&[("a", "first")]));
    assert_eq!(fixture.policies.generation(), 3);
}

#[test]
fn a_caller_who_saw_another_generation_is_refused() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    let with = |seen, wish| Request {
        if_generation: Some(seen),
        ..self::wish(wish)
    };
    for wish in [Wish::Delete("a".into()), Wish::Rollback(0)] {
        let error = fixture.try_to(&with(0, wish)).expect_err("stale");
        assert!(
            matches!(
                error,
                DaemonError::Stale {
                    generation: 1,
                    expected: 0
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("generation 1 is in force, not 0"),
            "{error}"
        );
    }
    fixture
        .try_to(&with(1, Wish::Delete("a".into())))
        .expect("is right");
}

#[test]
fn a_refusal_is_in_the_audit_log() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    let request = apply(&["policy: [\n"]);
    let error = fixture.try_to(&request).expect_err("invalid").to_string();
    fixture.policies.note_refusal(&request, &error);
    let chain = fixture.store.chain().expect("reads");
    assert_eq!(chain.verify(), Ok(()));
    let last = &chain.entries[1].attempt;
    assert_eq!((last.what.as_str(), last.action), ("0.yaml", Action::Apply));
    assert!(matches!(&last.outcome, Outcome::Refused { why } if why.contains("0.yaml:1:9")));
}

#[test]
fn an_import_makes_all_sets_those_of_the_export() {
    let mut from = Fixture::new();
    from.apply(&[A1]);
    from.apply(&[A2, B]);
    let export = from.store.export(Scope::All).expect("exports");

    // Into one with a past of its own: all sets become those of the export, the history goes on.
    let mut to = Fixture::new();
    to.apply(&["policy: c\n"]);
    let import = || wish(Wish::Import(Box::new(export.clone())));
    assert_eq!(to.try_to(&import()).expect("imports"), ["a", "b", "c"]);
    assert_eq!(to.descriptions(), pairs(&[("a", "second"), ("b", "b")]));
    assert_eq!(to.policies.generation(), 2);
    to.try_to(&wish(Wish::Rollback(1))).expect("goes back");
    assert_eq!(to.descriptions(), pairs(&[("c", "")]));

    // Into a new one: the past of the export is its past.
    let mut new = Fixture::new();
    new.try_to(&import()).expect("imports");
    assert_eq!(new.policies.generation(), 3);
    assert_eq!(new.descriptions(), pairs(&[("a", "second"), ("b", "b")]));
    let (history, _) = new.store.history(u64::MAX, 10, None).expect("reads");
    assert_eq!(
        history.iter().map(|g| g.generation).collect::<Vec<_>>(),
        [3, 2, 1]
    );
    let chain = new.store.chain().expect("reads");
    assert_eq!((chain.verify(), chain.entries.len()), (Ok(()), 3));
    new.try_to(&wish(Wish::Rollback(1))).expect("goes back");
    assert_eq!(new.descriptions(), pairs(&[("a", "first")]));
}

#[test]
fn after_damage_the_export_is_in_force_and_only_an_import_is_taken() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    fixture.apply(&[B]);
    let path = fixture.dir.path().join("store");
    let Fixture { dir, store, policies } = fixture;
    drop((store, policies));
    std::fs::write(path.join("db"), b"not a log").expect("writes");
    let store = open(&path);
    let (policies, _) = Policies::load(store.clone()).expect("loads");
    let mut fixture = Fixture { dir, store, policies };
    assert_eq!(fixture.descriptions(), pairs(&[("a", "first"), ("b", "b")]));
    assert!(!fixture.policies.holds());
    let error = fixture
        .try_to(&apply(&[A2]))
        .expect_err("waits for the import")
        .to_string();
    let file = fixture
        .dir
        .path()
        .join("store.exports/generation-00000000000000000002.json");
    assert!(
        error.contains(&format!("`xmesh policy-import {}`", file.display())),
        "{error}"
    );
    let export = Export::from_bytes(&std::fs::read(&file).expect("reads")).expect("whole");
    fixture
        .try_to(&wish(Wish::Import(Box::new(export))))
        .expect("imports");
    assert_eq!(fixture.policies.generation(), 3);
    fixture.apply(&[A2]);
}

#[test]
fn a_policy_that_is_lost_is_held_at_the_vifs_until_there_is_another() {
    let mut fixture = Fixture::new();
    fixture.apply(&[B]);
    let path = fixture.dir.path().join("store");
    let Fixture { dir, store, policies } = fixture;
    drop((store, policies));
    std::fs::remove_dir_all(dir.path().join("store.exports")).expect("goes");
    std::fs::write(path.join("db"), b"what is left of {\"applied_ns\":1}").expect("writes");
    let store = open(&path);
    let (policies, _) = Policies::load(store.clone()).expect("loads");
    let mut fixture = Fixture { dir, store, policies };
    assert!(fixture.policies.holds());
    fixture.apply(&[A1]);
    assert!(!fixture.policies.holds());
}

/// Of each VM, whether `a` denies what it sends.
fn denied(policies: &Policies) -> [bool; 2] {
    let denied = |name: &str| {
        let vm = policy::VmId::new(name, [0; 16]);
        let flow = policy::Flow {
            protocol: policy::Protocol::TCP,
            source: policy::Endpoint::guest(&vm, [10, 0, 0, 1].into()),
            destination: policy::Endpoint::world([192, 0, 2, 1].into()),
            port: 80,
        };
        policies.rules().decide(&flow).verdict == policy::Verdict::Deny
    };
    ["web1", "web2"].map(denied)
}

const DENIES: &str = "policy: a\ndescription: denies\ndefault: { \"*\": deny }\n";

fn stage(text: &str, seconds: Option<u64>) -> Request {
    let documents = vec![SourceText {
        file: "a.yaml".into(),
        text: text.into(),
    }];
    let vms = vec!["web1".to_owned()];
    wish(Wish::Stage(documents, StageOptions { vms, seconds }))
}

#[test]
fn a_change_can_hold_for_some_first_then_for_all() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    assert_eq!(denied(&fixture.policies), [false, false]);
    assert_eq!(fixture.try_to(&stage(DENIES, Some(60))).expect("valid"), ["a"]);
    assert_eq!(denied(&fixture.policies), [true, false]);
    assert_eq!(
        fixture.descriptions(),
        pairs(&[("a", "first")]),
        "what holds for all"
    );
    let told = fixture.policies.rollout().expect("reads").expect("under way");
    assert_eq!(told.vms, ["web1"]);
    assert_eq!(told.until_ns, Some(told.since_ns + 60_000_000_000));

    // Other sets change meanwhile, those do not, and only one change is under way.
    fixture.apply(&[B]);
    assert_eq!(denied(&fixture.policies), [true, false]);
    for wrong in [
        apply(&[A2]),
        wish(Wish::Delete("a".into())),
        stage("policy: c\n", None),
    ] {
        let why = fixture.try_to(&wrong).expect_err("under way").to_string();
        assert!(why.contains("a is being rolled out"), "{why}");
    }
    let tried = fixture.policies.try_out(&[], std::iter::empty());
    assert!(tried.is_err(), "nothing to try");

    // A daemon that starts anew goes on with it.
    let (again, problems) = Policies::load(fixture.store.clone()).expect("loads");
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(denied(&again), [true, false]);
    assert_eq!(again.rollout().expect("reads"), Some(told));
    fixture.policies = again;

    assert_eq!(fixture.try_to(&wish(Wish::Promote)).expect("valid"), ["a"]);
    assert_eq!(denied(&fixture.policies), [true, true]);
    assert_eq!(fixture.policies.rollout().expect("reads"), None);
    assert_eq!(fixture.descriptions(), pairs(&[("a", "denies"), ("b", "b")]));
    let (history, _) = fixture.store.history(u64::MAX, 10, None).expect("reads");
    let actions: Vec<Action> = history.iter().map(|g| g.action).collect();
    assert_eq!(
        actions,
        [Action::Promote, Action::Apply, Action::Stage, Action::Apply]
    );
    assert!(history[1].stage.is_some() && history[0].stage.is_none());
    let chain = fixture.store.chain().expect("reads");
    assert_eq!(chain.verify(), Ok(()));
    // The audit log says what was to hold where, by its content.
    let staged = &chain.entries[1].attempt;
    assert_eq!((staged.what.as_str(), staged.edits.len()), ("a for web1", 1));
}

#[test]
fn a_change_that_holds_for_some_can_be_taken_back() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    for end in [Wish::Abandon, Wish::Rollback(1)] {
        fixture.try_to(&stage(DENIES, None)).expect("valid");
        assert_eq!(denied(&fixture.policies), [true, false]);
        fixture.try_to(&wish(end)).expect("valid");
        assert_eq!(denied(&fixture.policies), [false, false]);
        assert_eq!(fixture.policies.rollout().expect("reads"), None);
        assert_eq!(fixture.descriptions(), pairs(&[("a", "first")]));
    }
    for nothing in [Wish::Promote, Wish::Abandon] {
        let why = fixture.try_to(&wish(nothing)).expect_err("nothing").to_string();
        assert!(why.contains("nothing is being rolled out"), "{why}");
    }
    // A text that only a stage has is kept for as long as that is under way, and what is restored is what held for all.
    fixture.try_to(&stage(DENIES, None)).expect("valid");
    for n in 0..70 {
        fixture.apply(&[&format!("policy: b\ndescription: \"{n}\"\n")]);
    }
    let store = open(&fixture.dir.path().join("another"));
    let export = fixture.store.export(Scope::InForce).expect("exports");
    assert!(fixture.store.stage().expect("has its texts").is_some());
    let (mut other, _) = Policies::load(store).expect("loads");
    let prepared = other
        .prepare(&wish(Wish::Import(Box::new(export))))
        .expect("valid");
    other.store_change(&prepared).expect("stores");
    other.adopt(prepared);
    assert_eq!(denied(&other), [false, false]);
}

#[test]
fn a_wrong_roll_out_is_refused() {
    let mut fixture = Fixture::new();
    fixture.apply(&[A1]);
    let routed =
        "policy: a\nroutes: { r: { address: 10.9.9.9, port: 80, backends: [{ to: { vm: web1 } }] } }\n";
    for (request, said) in [
        (stage(routed, None), "the routes of `a` change"),
        (stage("policy: [", None), "a.yaml:1:"),
        (stage(DENIES, Some(0)), "1 to 604800 seconds, not 0"),
        (
            wish(Wish::Stage(
                Vec::new(),
                StageOptions {
                    vms: vec!["web1".into()],
                    seconds: None,
                },
            )),
            "1 to 1000 documents",
        ),
        (
            wish(Wish::Stage(
                Vec::new(),
                StageOptions {
                    vms: Vec::new(),
                    seconds: None,
                },
            )),
            "1 to 1000 VMs",
        ),
    ] {
        let why = fixture.try_to(&request).expect_err("wrong").to_string();
        assert!(why.contains(said), "{why}");
    }
    assert_eq!(denied(&fixture.policies), [false, false]);
    assert_eq!(fixture.policies.generation(), 1);
}
