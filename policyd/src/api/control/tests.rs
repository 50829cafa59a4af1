// SPDX-License-Identifier: GPL-3.0-only
//! The routes over a real socket, asked by the real client; of the enforcer what it does with the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use policyd_api::chain::Outcome;
use policyd_api::export::Export;
use policyd_api::{Client, ClientError};
use policyd_store::{Config, Store};

use super::*;
use crate::api::connections::{Bounded, Room};
use crate::api::grants::Grants;
use crate::api::peer::Peer;
use crate::enforcer::{Order, Policies};

struct Served {
    dir: tempfile::TempDir,
    client: Client,
    // Ends the server with the test.
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new() -> Served {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            reserve: 0,
            ballast: 0,
            ..Config::default()
        };
        let store = Store::open(&dir.path().join("store"), config).expect("opens");
        let (policies, _) = Policies::load(store.clone()).expect("loads");
        let (orders, orders_in) = unbounded();
        std::thread::spawn(move || enforce(policies, &orders_in));
        let door = Arc::new(Doorman::new(Grants::default(), 0));
        let (router, _) = routes(&door, Arc::new(Control::new(store, orders, Arc::default()))).finish();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let socket = dir.path().join("api.sock");
        let listener = runtime.block_on(async { tokio::net::UnixListener::bind(&socket).expect("binds") });
        let service = router.into_make_service_with_connect_info::<Peer>();
        runtime.spawn(async { axum::serve(Bounded::new(listener, &Room::default()), service).await });
        let client = Client::new(&socket).expect("a client");
        Served {
            dir,
            client,
            _runtime: runtime,
        }
    }

    fn apply(&self, texts: &[&str], if_generation: Option<u64>) -> Result<Applied, ClientError> {
        let documents = texts.iter().map(|text| SourceText {
            file: "t.yaml".into(),
            text: (*text).into(),
        });
        let request = ApplyRequest {
            documents: documents.collect(),
            dry_run: false,
            message: Some("a & b?".into()),
            stage: None,
        };
        self.client.apply(&request, if_generation)
    }

    /// The head of an answer, as it goes over the wire.
    fn raw(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let path: PathBuf = self.dir.path().join("api.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(Path::new(&path)).expect("connects");
        write!(stream, "{request}host: p\r\nconnection: close\r\n\r\n").expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        answer
    }
}

/// The enforcer without vifs.
fn enforce(mut policies: Policies, orders: &Receiver<Order>) {
    for order in orders {
        match order {
            Order::Change { request, reply } => {
                let result = policies.prepare(&request).and_then(|prepared| {
                    let applied = Applied {
                        names: prepared.names(),
                        generation: match request.dry_run {
                            true => policies.generation(),
                            false => prepared.rules().generation(),
                        },
                        flows_changed: 0,
                        dry_run: request.dry_run,
                    };
                    if !request.dry_run {
                        policies.store_change(&prepared)?;
                        policies.adopt(prepared);
                    }
                    Ok(applied)
                });
                if let Err(e) = &result {
                    policies.note_refusal(&request, &e.to_string());
                }
                let _ = reply.send(result);
            }
            Order::List { reply } => drop(reply.send((policies.generation(), policies.list()))),
            Order::Show { name, reply } => {
                let _ = reply.send(policies.show(&name).map(|set| (policies.generation(), set)));
            }
            _ => {}
        }
    }
}

fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String) {
    match result.expect_err("is refused") {
        ClientError::Refused { status, message } => (status, message),
        e => panic!("{e}"),
    }
}

#[test]
fn changes_history_and_rollback() {
    let served = Served::new();
    let client = &served.client;
    assert_eq!(
        served
            .apply(&["policy: a\n", "policy: b\n"], None)
            .expect("applies")
            .generation,
        1
    );
    let options = ChangeOptions::default();
    assert_eq!(
        client.delete("b", &options, Some(1)).expect("deletes").generation,
        2
    );
    let dry = ChangeOptions {
        dry_run: true,
        message: None,
    };
    let would = client.rollback(1, &dry, None).expect("would go back");
    assert_eq!(
        (would.names, would.generation, would.dry_run),
        (vec!["b".to_owned()], 2, true)
    );
    assert_eq!(
        client
            .rollback(1, &options, Some(2))
            .expect("goes back")
            .generation,
        3
    );
    assert_eq!(client.sets_at(2).expect("sets").sets.len(), 1);
    let first = PageQuery {
        limit: Some(2),
        ..PageQuery::default()
    };
    let page = client.history(&first).expect("history");
    assert_eq!(
        page.generations.iter().map(|g| g.generation).collect::<Vec<_>>(),
        [3, 2]
    );
    let rest = PageQuery {
        before: page.next,
        ..first
    };
    let page = client.history(&rest).expect("history");
    assert_eq!((page.generations.len(), page.next), (1, None));
    assert_eq!(page.generations[0].message.as_deref(), Some("a & b?"));
    // This process's user, by the kernel's word.
    assert_eq!(page.generations[0].by.uid, nix::unistd::getuid().as_raw());
    let of_a = PageQuery {
        set: Some("a".into()),
        ..PageQuery::default()
    };
    assert_eq!(client.history(&of_a).expect("history").generations.len(), 1);
    let (code, text) = status(client.rollback(77, &options, None));
    assert_eq!(code, 404);
    assert!(
        text.contains("generation 77 is not kept; `xmesh policy-history` lists those that are (0 to 3)"),
        "{text}"
    );
    let none = PageQuery {
        limit: Some(0),
        ..PageQuery::default()
    };
    assert_eq!(status(client.history(&none)).0, 422);
}

#[test]
fn a_generation_is_an_etag_and_if_match_holds() {
    let served = Served::new();
    served.apply(&["policy: a\n"], Some(0)).expect("applies");
    for path in ["/v1/policies", "/v1/policies/a", "/v1/history"] {
        let answer = served.raw(&format!("GET {path} HTTP/1.1\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("etag: \"1\"\r\n"),
            "{answer}"
        );
    }
    let (code, text) = status(served.apply(&["policy: b\n"], Some(0)));
    assert_eq!(code, 412);
    assert!(text.contains("generation 1 is in force, not 0"), "{text}");
    let options = ChangeOptions::default();
    assert_eq!(status(served.client.delete("a", &options, Some(7))).0, 412);
    assert_eq!(status(served.client.rollback(0, &options, Some(7))).0, 412);
    let file = served.client.export().expect("exports").to_vec();
    assert_eq!(status(served.client.import(file, &options, Some(7))).0, 412);
    let answer = served.raw("DELETE /v1/policies/a HTTP/1.1\r\nif-match: 1\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("in quotes"),
        "{answer}"
    );
    assert_eq!(
        served
            .client
            .history(&PageQuery::default())
            .expect("history")
            .generations
            .len(),
        1
    );
    let answer = served.raw("DELETE /v1/policies/a HTTP/1.1\r\nif-match: *\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("etag: \"2\""),
        "{answer}"
    );
}

#[test]
fn what_was_refused_is_in_the_audit_log() {
    let served = Served::new();
    let client = &served.client;
    served.apply(&["policy: a\n"], None).expect("applies");
    assert_eq!(status(served.apply(&["policy: [\n"], None)).0, 422);
    assert_eq!(
        status(client.delete("none", &ChangeOptions::default(), None)).0,
        404
    );
    assert_eq!(
        status(client.import(b"nonsense".to_vec(), &ChangeOptions::default(), None)).0,
        422
    );
    let page = client.audit(&PageQuery::default()).expect("the log");
    let whys: Vec<&str> = page
        .entries
        .iter()
        .filter_map(|e| match &e.attempt.outcome {
            Outcome::Refused { why } => Some(why.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(whys.len(), 3, "{whys:?}");
    assert!(
        whys[0].contains("no export of xmesh") && whys[1].contains("no policy none"),
        "{whys:?}"
    );
    let check = client
        .audit_check(Some(&page.entries[1].hash))
        .expect("is checked");
    assert_eq!((check.entries, check.broken), (4, None));
    assert!(
        client
            .audit_check(Some("0123"))
            .expect("is checked")
            .broken
            .is_some()
    );
}

#[test]
fn an_export_is_imported_elsewhere_and_may_be_large() {
    let from = Served::new();
    // Each line differs, so that nothing is shared.
    let big = |n: u64| {
        let mut text = format!("policy: big{n}\n");
        for line in 0..9000_u64 {
            text.push_str(&format!(
                "# {line} {:032x}\n",
                u128::from((line + n * 9000).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            ));
        }
        text
    };
    for n in 0..3 {
        let texts: Vec<String> = (4 * n..4 * n + 4).map(big).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        from.apply(&texts, None).expect("applies");
    }
    let file = from.client.export().expect("exports").to_vec();
    assert!(file.len() > 4 << 20, "{}", file.len());
    let export = Export::from_bytes(&file).expect("whole");
    assert_eq!((export.generation, export.sets.len()), (3, 12));
    let to = Served::new();
    let done = to
        .client
        .import(file, &ChangeOptions::default(), None)
        .expect("imports");
    assert_eq!(done.generation, 4);
    assert_eq!(to.client.policies().expect("lists").len(), 12);
    assert_eq!(to.client.policy("big3").expect("shows").text, big(3));
    // Nothing is taken of one that is not whole.
    let mut bad = from.client.export().expect("exports").to_vec();
    bad.truncate(bad.len() / 2);
    let (code, text) = status(to.client.import(bad, &ChangeOptions::default(), None));
    assert_eq!(code, 422);
    assert!(text.contains("cut short"), "{text}");
}
