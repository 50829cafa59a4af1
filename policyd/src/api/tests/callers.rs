// SPDX-License-Identifier: GPL-3.0-only
//! Callers of other users and groups: what they may do, and how often.

use std::os::unix::fs::MetadataExt;

use super::*;

/// Asks as another user. Credentials belong to threads, and the kernel notes those of the one that connects.
fn ask_as(uid: u32, groups: &[u32], socket: &Path, request: &str) -> Answer {
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            // SAFETY: takes numbers, and an array with its length; changes this thread alone, which ends right after.
            let changed = unsafe {
                libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0
                    && libc::syscall(libc::SYS_setresgid, uid, uid, uid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            };
            assert!(changed, "needs root");
            ask(socket, request, b"{}")
        });
        asking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const JSON: &str = "content-type: application/json";

#[test]
fn each_caller_may_do_what_its_role_says_and_is_told_what_it_lacks() {
    let served = Served::new(&[
        "--grant",
        "viewer=gid:7001",
        "--grant",
        "operator=uid:7002",
        "--grant",
        "admin=uid:7003",
    ]);
    let socket = &served.socket;
    let see = "GET /v1/status";
    let change = "DELETE /v1/policies/none";
    let take = "GET /v1/export";
    for (uid, groups, statuses) in [
        (7000, &[7000_u32, 7001] as &[u32], [200, 403, 403]),
        (7002, &[], [200, 404, 403]),
        (7003, &[], [200, 404, 200]),
        (7004, &[], [403, 403, 403]),
    ] {
        for (request, status) in [see, change, take].into_iter().zip(statuses) {
            let answer = ask_as(uid, groups, socket, request);
            assert_eq!(answer.status, status, "{uid} {request}: {answer:?}");
        }
    }
    assert_eq!(
        ask_as(7004, &[], socket, take).text(),
        "this needs the role admin, and uid:7004 has no role; have policyd started with --grant admin=uid:7004"
    );
    assert_eq!(
        ask_as(7000, &[7001], socket, &format!("POST /v1/policies\n{JSON}")).text(),
        "this needs the role operator, and uid:7000 has viewer; have policyd started with --grant operator=uid:7000"
    );
    // The document knows each route's role, and nobody is let in without one.
    let document = served.ask("GET /v1/openapi.json").json();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let request = format!("{} {}", method.to_uppercase(), path.replace(['{', '}'], ""));
            let answer = ask_as(7004, &[], socket, &request);
            let role = operation["x-role"].as_str().expect("a role");
            assert_eq!(answer.status, 403, "{request}");
            assert!(
                answer
                    .text()
                    .starts_with(&format!("this needs the role {role}, ")),
                "{}",
                answer.text()
            );
        }
    }
}

#[test]
fn who_made_a_change_is_who_the_kernel_says() {
    let served = Served::new(&["--grant", "operator=gid:7001"]);
    let answer = ask_as(7009, &[7001], &served.socket, "DELETE /v1/policies/none");
    assert_eq!(answer.status, 404);
    let log = served.ask("GET /v1/audit").json();
    assert_eq!(log["entries"][0]["by"]["uid"], 7009, "{log}");
}

#[test]
fn the_sockets_file_lets_in_whom_a_grant_is_for_and_no_others() {
    let harness = Harness::start();
    let socket = harness.path("opening.sock");
    for (grants, mode, group) in [
        (&[] as &[&str], 0o600, 0),
        (&["--grant", "viewer=gid:7001"], 0o660, 7001),
        (
            &["--grant", "viewer=gid:7001", "--grant", "admin=uid:7002"],
            0o666,
            0,
        ),
    ] {
        let line = ["policyd"].iter().chain(grants);
        let access = Args::try_parse_from(line).expect("parses").options.api;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let _listener = runtime.block_on(async { bind(&socket, &access).expect("binds") });
        let file = std::fs::metadata(&socket).expect("is there");
        assert_eq!((file.mode() & 0o777, file.gid()), (mode, group), "{grants:?}");
    }
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back_and_root_never_is() {
    let served = Served::new(&["--grant", "viewer=uid:7001", "--rate-limit", "1"]);
    // At once, since a busy machine may take its time for one after the other.
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| ask_as(7001, &[], &served.socket, "GET /v1/openapi.json")))
            .collect();
        asking
            .into_iter()
            .map(|asking| asking.join().expect("asks"))
            .collect()
    });
    let (passed, refused): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|a| a.status == 200);
    assert!(passed.len() >= 2 && !refused.is_empty(), "{answers:?}");
    for answer in refused {
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (429, Some("1")),
            "{answer:?}"
        );
        assert!(answer.text().contains("--rate-limit"), "{}", answer.text());
    }
    assert!((0..20).all(|_| served.ask("GET /v1/openapi.json").status == 200));
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        ask_as(7001, &[], &served.socket, "GET /v1/openapi.json").status,
        200
    );
}
