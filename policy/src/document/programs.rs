// SPDX-License-Identifier: GPL-3.0-only
//! Programs whose text is known, page by page: what `measured` holds processes against.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::VmPattern;
use super::fields::Reader;
use super::node::{Node, Value};
use super::read::absolute;
use super::values::{patterns, plain_name, shorten, whole};
use crate::flow::VmId;
use crate::pattern::Pattern;

pub(super) const PROGRAM: [&str; 4] = ["exe", "vm", "version", "text"];
pub(super) const RUN: [&str; 2] = ["page", "sha256"];

/// Bytes of a SHA-256.
const DIGEST: usize = 32;
/// The pages of the largest file that is measured: 1 GiB of 4 KiB each.
const MAX_PAGE: u32 = 1 << 18;
/// What a text that somebody reads may have.
const MAX_VERSION: usize = 128;

/// A program as its file has it. `xmesh measure` writes these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Where it lies in guests; one of these.
    pub exe: Vec<Pattern>,
    /// The guests that it is known of; empty: every guest of this host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vm: Vec<VmPattern>,
    /// What its author calls it, such as the version of its package.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The pages of its file that are executed.
    pub text: Arc<[Run]>,
}

/// Pages that follow on one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The number of the first, in pages of 4 KiB from the beginning of the file.
    pub page: u32,
    /// SHA-256 of each.
    #[serde(serialize_with = "as_base64")]
    pub sha256: Vec<[u8; DIGEST]>,
}

impl Program {
    /// Whether it is known of this guest's file.
    pub fn is_for(&self, vm: &VmId, exe: &str) -> bool {
        (self.vm.is_empty() || self.vm.iter().any(|p| p.matches(vm)))
            && self.exe.iter().any(|pattern| pattern.matches(exe))
    }

    /// Each page's number in the file and its SHA-256, in order.
    pub fn pages(&self) -> impl Iterator<Item = (u32, &[u8; DIGEST])> {
        self.text
            .iter()
            .flat_map(|run| (run.page..).zip(run.sha256.iter()))
    }
}

fn as_base64<S: Serializer>(digests: &[[u8; DIGEST]], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(digests.as_flattened()))
}

pub(super) fn programs(reader: &Reader<'_>, node: &Node) -> BTreeMap<String, Program> {
    let mut programs = BTreeMap::new();
    for (key, value) in reader.entries(node, "`programs`") {
        let name = plain_name(reader, key.place, &key.text, "the name of a program");
        if let (Some(name), Some(program)) = (name, program(reader, value)) {
            programs.insert(name, program);
        }
    }
    programs
}

const EXAMPLE: &str = "let `xmesh measure FILE` write it";

fn program(reader: &Reader<'_>, node: &Node) -> Option<Program> {
    if !matches!(node.value, Value::Map(_)) {
        let what = format_args!("a program is {}, not a mapping", node.value.kind());
        reader.problem(node.place, what, EXAMPLE);
        return None;
    }
    let fields = reader.fields(node, "a program", &PROGRAM);
    let exe_node = fields.require(reader, "exe", "a program", "/usr/bin/curl");
    let text_node = fields.require(reader, "text", "a program", "[{ page: 4, sha256: … }]");
    let exe: Vec<Pattern> = patterns(reader, exe_node, "`exe`", |p| p);
    if let Some(node) = exe_node {
        absolute(reader, node, &exe);
    }
    let version = fields.get("version").and_then(|n| {
        let text = reader.text(n, "`version`")?;
        if text.is_empty() || text.len() > MAX_VERSION || text.chars().any(char::is_control) {
            let what =
                format_args!("`version` has no text that people can read, or more than {MAX_VERSION} bytes");
            reader.problem(n.place, what, "write what its package says, such as 7.88.1-10");
            return None;
        }
        Some(text.to_owned())
    });
    let mut text = text_node
        .map(|n| reader.list(n, "`text`", |one| run(reader, one)))
        .unwrap_or_default();
    text.sort_by_key(|run| run.page);
    let meet = text.windows(2).find(|pair| match pair {
        [a, b] => a.page as usize + a.sha256.len() > b.page as usize,
        _ => false,
    });
    if let (Some(node), Some([_, second])) = (text_node, meet) {
        reader.problem(
            node.place,
            format_args!("page {} is in `text` twice", second.page),
            EXAMPLE,
        );
    }
    // What is wrong has been noted.
    (!exe.is_empty() && !text.is_empty()).then(|| Program {
        exe,
        vm: patterns(reader, fields.get("vm"), "`vm`", VmPattern::from),
        version,
        text: text.into(),
    })
}

fn run(reader: &Reader<'_>, node: &Node) -> Option<Run> {
    if !matches!(node.value, Value::Map(_)) {
        let what = format_args!("pages of a program are {}, not a mapping", node.value.kind());
        reader.problem(node.place, what, EXAMPLE);
        return None;
    }
    let fields = reader.fields(node, "pages of a program", &RUN);
    let page = fields
        .require(reader, "page", "pages of a program", "4")
        .and_then(|n| whole(reader, n, "a page", 0, MAX_PAGE));
    let node = fields.require(reader, "sha256", "pages of a program", "(base64)")?;
    let written = reader.text(node, "`sha256`")?;
    let mut text = written.to_owned();
    text.retain(|c| !c.is_ascii_whitespace());
    let bytes = match STANDARD.decode(&text) {
        Ok(bytes) => bytes,
        Err(_) => {
            let what = format_args!("`{}` is not base64", shorten(written));
            reader.problem(node.place, what, EXAMPLE);
            return None;
        }
    };
    let (digests, rest) = bytes.as_chunks::<DIGEST>();
    if digests.is_empty() || !rest.is_empty() || digests.len() > MAX_PAGE as usize {
        let what = format_args!(
            "{} bytes are no digests of pages, which have {DIGEST} bytes each",
            bytes.len()
        );
        reader.problem(node.place, what, EXAMPLE);
        return None;
    }
    Some(Run {
        page: page?,
        sha256: digests.to_vec(),
    })
}
