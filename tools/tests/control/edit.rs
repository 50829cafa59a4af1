// SPDX-License-Identifier: GPL-3.0-only
//! `policy-edit`, with editors that are short programs.

use std::process::Output;

use crate::daemon::{Answer, Daemon, command, json};
use policyd_api::{Applied, ErrorBody, PolicyDocument, PolicySummary};

fn document() -> Answer {
    json(&PolicyDocument {
        summary: PolicySummary {
            name: "shop".into(),
            description: None,
            services: 0,
            rules: 0,
            routes: 0,
            generation: 3,
            applied_ns: 0,
            by_uid: 0,
            by_name: None,
        },
        text: "policy: shop\n".into(),
    })
}

fn edit(daemon: &Daemon, editor: &str) -> Output {
    let mut command = command(&daemon.socket(), &["policy-edit", "shop", "-m", "why"]);
    command.env("VISUAL", editor).env("TMPDIR", daemon.folder.path());
    command.output().unwrap()
}

fn left(daemon: &Daemon) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(daemon.folder.path()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect()
}

#[test]
fn what_was_edited_stands_on_the_generation_that_was_seen() {
    let daemon = Daemon::start_tagged(7, |target| match target {
        "GET /v1/policies/shop" => document(),
        _ => json(&Applied {
            names: vec!["shop".into()],
            generation: 8,
            flows_changed: 0,
            dry_run: false,
        }),
    });
    let output = edit(&daemon, "sed -i s/shop$/shop2/");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        daemon.asked(),
        [
            "GET /v1/policies/shop",
            "POST /v1/policies if-match: \"7\" {\"documents\":[{\"file\":\"shop.yaml\",\"text\":\"policy: shop2\\n\"}],\"dry_run\":false,\"message\":\"why\"}"
        ]
    );
    let output = edit(&daemon, "true");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "the text is as it was; nothing was changed\n"
    );
    let output = edit(&daemon, "false");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("the editor `false` failed")
    );
    assert_eq!(daemon.asked().len(), 4, "nothing but the text was asked for");
    assert_eq!(left(&daemon), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_was_refused_is_not_lost() {
    let daemon = Daemon::start_tagged(7, |target| match target {
        "GET /v1/policies/shop" => document(),
        _ => {
            let error = "generation 9 is in force, not 7".to_owned();
            (412, serde_json::to_string(&ErrorBody { error }).unwrap())
        }
    });
    for (editor, why, text) in [
        (
            "sed -i s/shop$/shop2/",
            "generation 9 is in force, not 7",
            "policy: shop2\n",
        ),
        ("sed -i s/policy/polecy/", ":1:1: ", "polecy: shop\n"),
    ] {
        let output = edit(&daemon, editor);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let files = left(&daemon);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(files.len(), 1, "{told}");
        assert!(
            told.contains(why) && told.contains(files[0].to_str().unwrap()),
            "{told}"
        );
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), text);
        std::fs::remove_file(&files[0]).unwrap();
    }
}
