// SPDX-License-Identifier: GPL-3.0-only
//! What the API says of the past, over a real socket, asked by the real client; of the enforcer, what it does with documents.

use std::path::Path;

use crossbeam_channel::unbounded;
use policy::{Document, Ruleset};
use policyd_api::{
    Client, ClientError, FlowTotals, PastQuery, ReplayRequest, ShadowRequest, SourceText, SuggestQuery,
    Verdict,
};
use policyd_store::{Config, FlowConfig, Store};

use super::*;
use crate::api::past::tests::serve;
use crate::differences::samples::flow;
use crate::enforcer::{Order, Policies};

const IN_FORCE: &str = "policy: shop
services: { curl: { vm: web1, exe: /usr/bin/curl } }
";
const CANDIDATE: &str = "policy: shop
default: { db1: deny }
services: { curl: { vm: web1, exe: /usr/bin/curl } }
rules:
  - { name: reads, from: curl, to: { vm: db1 }, ports: 80, action: allow }
";

struct Site {
    client: Client,
    history: FlowStore,
    shadow: Arc<Shadow>,
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

fn history(dir: &Path) -> FlowStore {
    let config = FlowConfig {
        reserve: 0,
        ..FlowConfig::default()
    };
    FlowStore::open(&dir.join("flows"), config).expect("opens")
}

impl Site {
    fn new(kept: bool) -> Site {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            reserve: 0,
            ballast: 0,
            ..Config::default()
        };
        let store = Store::open(&dir.path().join("store"), config).expect("opens");
        let (policies, _) = Policies::load(store.clone()).expect("loads");
        let history = history(dir.path());
        let shadow = Arc::new(Shadow::load(&history));
        let (orders, orders_in) = unbounded();
        let enforcers = Arc::clone(&shadow);
        std::thread::spawn(move || {
            for order in orders_in {
                match order {
                    Order::Compile { documents, reply } => {
                        drop(reply.send(policies.try_out(&documents, std::iter::empty())))
                    }
                    Order::Shadow { asked, reply } => {
                        let candidate = policies.try_out(&asked.documents, std::iter::empty());
                        enforcers.set(*asked, candidate);
                        let _ = reply.send(());
                    }
                    _ => {}
                }
            }
        });
        let documents = [Document::parse("shop.yaml", IN_FORCE).expect("valid")];
        let rules = Arc::new(Ruleset::compile(&documents, 7).expect("valid"));
        let world = Arc::new(ArcSwap::from_pointee(World::new(rules, Vec::new())));
        let past = PastFlows::new(
            match kept {
                true => Ok(history.clone()),
                false => Err("no history of flows is kept: a test".into()),
            },
            Arc::clone(&shadow),
            Arc::new(Control::new(store, orders, Arc::default())),
            world,
            Arc::default(),
        );
        let socket = dir.path().join("api.sock");
        let runtime = serve(Arc::new(past), &socket);
        Site {
            client: Client::new(&socket).expect("a client"),
            history,
            shadow,
            _runtime: runtime,
            dir,
        }
    }

    /// So many flows of a program, a minute ago.
    fn put(&self, exe: Option<&str>, port: u16, verdict: Verdict, flows: u64) {
        let name = policyd_api::FlowName {
            port: Some(port),
            ..flow(exe, verdict)
        };
        let at = now_ns() / 1_000_000_000 - 60;
        let totals = FlowTotals {
            flows,
            first: at,
            last: at,
            ..FlowTotals::default()
        };
        self.history.add(&Arc::new(name), totals);
    }
}

fn document(text: &str) -> Vec<SourceText> {
    vec![SourceText {
        file: "shop.yaml".into(),
        text: text.into(),
    }]
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String) {
    match result.expect_err("is refused") {
        ClientError::Refused { status, message } => (status, message),
        e => panic!("{e}"),
    }
}

#[test]
fn flows_of_the_past_are_found_by_every_word_and_page_by_page() {
    let site = Site::new(true);
    site.put(Some("/usr/bin/curl"), 80, Verdict::Allow, 5);
    site.put(Some("/usr/bin/wget"), 80, Verdict::Allow, 7);
    site.put(Some("/usr/bin/wget"), 443, Verdict::Deny, 2);
    site.put(None, 53, Verdict::Allow, 1);
    let found = |edit: &dyn Fn(&mut PastQuery)| {
        let mut query = PastQuery::default();
        edit(&mut query);
        let page = site.client.past_flows(&query).expect("answers");
        let flows = page.flows.iter().map(|f| f.totals.flows);
        (flows.collect::<Vec<_>>(), page.all, page.next)
    };
    let by = |edit: &dyn Fn(&mut PastQuery)| found(edit).0;
    assert_eq!(found(&|_| {}), (vec![7, 5, 2, 1], 4, None));
    assert_eq!(found(&|q| q.limit = Some(3)), (vec![7, 5, 2], 4, Some(3)));
    let rest = found(&|q| (q.limit, q.skip) = (Some(3), Some(3)));
    assert_eq!(rest, (vec![1], 4, None));
    assert_eq!(by(&|q| q.from = Some("web*".into())), [7, 5, 2, 1]);
    assert_eq!(by(&|q| q.from = Some("db1".into())), [] as [u64; 0]);
    assert_eq!(by(&|q| q.from = Some("web1:/usr/bin/c*".into())), [5]);
    assert_eq!(by(&|q| q.from = Some("/usr/bin/wget".into())), [7, 2]);
    assert_eq!(by(&|q| q.from = Some("shop/curl".into())), [5]);
    assert_eq!(by(&|q| q.from = Some("10.0.0.0/24".into())), [7, 5, 2, 1]);
    assert_eq!(by(&|q| q.to = Some("10.0.0.11".into())), [] as [u64; 0]);
    assert_eq!(by(&|q| q.from = Some("world".into())), [] as [u64; 0]);
    assert_eq!(by(&|q| q.port = Some(443)), [2]);
    assert_eq!(by(&|q| q.verdict = Some(Verdict::Deny)), [2]);
    assert_eq!(by(&|q| q.protocol = Some("udp".into())), [] as [u64; 0]);
    assert_eq!(by(&|q| q.rule = Some("no".into())), [7, 5, 2, 1]);
    let page = site.client.past_flows(&PastQuery {
        from: Some("web1:/usr/bin/curl".into()),
        ..PastQuery::default()
    });
    assert_eq!(page.expect("answers").flows[0].name.from.services, ["shop/curl"]);
    let wrong: [fn(&mut PastQuery); 3] = [
        |q| q.from = Some("a[b".into()),
        |q| q.limit = Some(0),
        |q| q.since = Some(u64::MAX),
    ];
    for edit in wrong {
        let mut query = PastQuery::default();
        edit(&mut query);
        assert_eq!(refusal(site.client.past_flows(&query)).0, 422, "{query:?}");
    }
}

#[test]
fn a_replay_says_what_would_have_been_cut_and_opened() {
    let site = Site::new(true);
    site.put(Some("/usr/bin/curl"), 80, Verdict::Allow, 5);
    site.put(Some("/usr/bin/wget"), 80, Verdict::Allow, 7);
    site.put(Some("/usr/bin/curl"), 80, Verdict::Deny, 3);
    let replay = |text: &str| {
        site.client.replay(&ReplayRequest {
            documents: document(text),
            since: None,
            until: None,
        })
    };
    let found = replay(CANDIDATE).expect("answers").differences;
    assert_eq!((found.flows, found.cut, found.opened), (15, 7, 3));
    let listed: Vec<_> = found
        .differences
        .iter()
        .map(|d| (d.flow.name.from.label(), d.would, &*d.would_rule, d.now))
        .collect();
    assert_eq!(
        listed,
        [
            (
                "web1:/usr/bin/wget".to_owned(),
                Verdict::Deny,
                "default (to)",
                Verdict::Allow
            ),
            (
                "web1:/usr/bin/curl".to_owned(),
                Verdict::Allow,
                "shop/reads",
                Verdict::Allow
            ),
        ]
    );
    let (status, message) = refusal(replay("policy: shop\nrulez: []\n"));
    assert!(
        status == 422 && message.contains("shop.yaml:2"),
        "{status} {message}"
    );
    assert_eq!(
        refusal(site.client.replay(&ReplayRequest {
            documents: vec![],
            since: None,
            until: None
        }))
        .0,
        422
    );
}

#[test]
fn a_policy_is_learned_that_lets_pass_what_was_seen_and_nothing_new() {
    let site = Site::new(true);
    site.put(Some("/usr/bin/curl"), 80, Verdict::Allow, 5);
    site.put(Some("/usr/bin/curl"), 443, Verdict::Allow, 2);
    site.put(Some("/usr/bin/wget"), 80, Verdict::Deny, 4);
    let learned = site.client.suggest(&SuggestQuery {
        vm: Some("web*,db1".into()),
        name: Some("shop".into()),
        ..SuggestQuery::default()
    });
    let learned = learned.expect("answers");
    assert_eq!(
        learned.suggestion.covered,
        ["db1", "web1"],
        "{}",
        learned.suggestion.text
    );
    assert_eq!(learned.suggestion.rules[0].totals.flows, 7);
    // By the name that the policy in force has for it.
    assert!(
        learned.suggestion.text.contains("from: curl,"),
        "{}",
        learned.suggestion.text
    );
    let refused = &learned.suggestion.refused;
    assert_eq!((refused.len(), refused[0].totals.flows), (1, 4));
    let count = |d: &policyd_api::Differences| (d.flows, d.cut, d.opened);
    assert_eq!(count(&learned.effect), (11, 0, 0));
    // In force it would cut what comes new.
    site.put(Some("/usr/bin/nc"), 80, Verdict::Allow, 3);
    let replay = site.client.replay(&ReplayRequest {
        documents: document(&learned.suggestion.text),
        since: None,
        until: None,
    });
    assert_eq!(count(&replay.expect("answers").differences), (14, 3, 0));
    let ask = |edit: &dyn Fn(&mut SuggestQuery)| {
        let mut query = SuggestQuery::default();
        edit(&mut query);
        refusal(site.client.suggest(&query))
    };
    assert_eq!(ask(&|q| q.vm = Some("a[".into())).0, 422);
    assert_eq!(ask(&|q| q.widest6 = Some(129)).0, 422);
    assert_eq!(ask(&|q| q.since = Some(u64::MAX)).0, 422);
    assert_eq!(ask(&|q| q.vm = Some("a,".repeat(101))).0, 422);
    assert_eq!(ask(&|q| q.name = Some("any thing".into())).0, 422);
}

#[test]
fn a_policy_runs_beside_and_is_there_after_a_restart() {
    let site = Site::new(true);
    assert!(site.client.shadow().expect("answers").files.is_empty());
    let ask = |documents| site.client.set_shadow(&ShadowRequest { documents });
    assert_eq!(refusal(ask(document("no"))).0, 422);
    assert!(site.client.shadow().expect("answers").files.is_empty());
    assert_eq!(ask(document(CANDIDATE)).expect("runs").files, ["shop.yaml"]);
    let wget = Arc::new(flow(Some("/usr/bin/wget"), Verdict::Allow));
    let example = || policyd_api::FlowExample {
        local: "10.0.0.11:4000".parse().expect("an address"),
        remote: "10.0.0.12:80".parse().expect("an address"),
        pid: Some(7),
    };
    site.shadow.observe(&wget, 10, example);
    let status = site.client.shadow().expect("answers");
    assert_eq!((status.differences.cut, status.problem), (1, None));
    assert_eq!(status.differences.differences[0].example, Some(example()));
    let kept = Shadow::load(&site.history);
    assert_eq!(kept.documents(), document(CANDIDATE));
    assert!(ask(Vec::new()).expect("is off").files.is_empty());
    assert!(Shadow::load(&site.history).documents().is_empty());
    drop(site.dir);
}

#[test]
fn where_no_history_is_kept_that_is_what_is_said() {
    let site = Site::new(false);
    let (status, message) = refusal(site.client.past_flows(&PastQuery::default()));
    assert_eq!((status, &*message), (503, "no history of flows is kept: a test"));
    assert_eq!(refusal(site.client.shadow()).0, 503);
}

#[test]
fn a_replay_judges_flows_by_the_rules_of_their_time() {
    let site = Site::new(true);
    // Now and an hour from now; not an hour ago.
    let now = now_ns() / 1_000_000_000;
    let minutes = |at: u64| at / 60 % 1440;
    let clock = |at: u64| format!("{:02}:{:02}", minutes(at) / 60, minutes(at) % 60);
    let (opens, shuts) = (now - 10 * 60, now + 50 * 60);
    let text = CANDIDATE.replace(
        "action: allow }",
        &format!(
            "action: allow, require: {{ time: {{ hours: \"{}-{}\" }} }} }}",
            clock(opens),
            clock(shuts)
        ),
    );
    for (ago, flows) in [(20 * 60, 4), (5 * 60, 3)] {
        let at = now - ago;
        let totals = FlowTotals {
            flows,
            first: at,
            last: at,
            ..FlowTotals::default()
        };
        site.history
            .add(&Arc::new(flow(Some("/usr/bin/curl"), Verdict::Allow)), totals);
        site.history.write(at + 60, true).expect("writes");
    }
    let request = ReplayRequest {
        documents: document(&text),
        since: None,
        until: None,
    };
    let found = site.client.replay(&request).expect("is replayed").differences;
    assert_eq!((found.flows, found.cut), (7, 4));
    assert_eq!(found.differences[0].unsure, None);
}
