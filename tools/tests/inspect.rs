// SPDX-License-Identifier: GPL-3.0-only
//! `xmesh inspect` on files that hold no guest. What it tells of those that do is tested in `inspect_guest.rs`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write;
use std::process::Command;

/// Exit status and standard error.
fn inspect(content: &[u8]) -> (Option<i32>, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xmesh"))
        .args(["--json", "inspect"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_file_without_a_guest_fails_and_says_what_would_help() {
    for (content, why) in [
        (&b""[..], "an empty file"),
        (b"KDUMP   \x06\0\0\0", "without -z"),
        (b"\x1f\x8b\x08\0", "unpack it"),
        (b"\x7fELF\x02\x01\x01\0", "cut off"),
        (&[0; 1 << 20], "no kernel image in this memory"),
    ] {
        let (status, error) = inspect(content);
        assert_eq!(status, Some(1), "{error}");
        assert!(error.starts_with("xmesh: ") && error.contains(why), "{error}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xmesh"))
        .args(["inspect", "/nowhere/dump"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("/nowhere/dump")
    );
}
