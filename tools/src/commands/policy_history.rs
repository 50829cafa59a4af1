// SPDX-License-Identifier: GPL-3.0-only
//! `policy-history`, `policy-diff`, `policy-rollback`, `policy-export`, `policy-import`, `audit`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use policyd_api::export::Export;
use policyd_api::{AuditCheck, AuditPage, Client, PageQuery};
use serde::Serialize;

use super::follow::follow;
use crate::args::{Audit, Change, Page};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::{policy, policy_history as render, style};

impl Page {
    fn query(&self, set: Option<&str>) -> PageQuery {
        PageQuery {
            before: self.before,
            limit: Some(self.limit),
            set: set.map(str::to_owned),
        }
    }
}

pub fn history(
    client: &Client,
    set: Option<&str>,
    keep_on: bool,
    page: &Page,
    output: &mut Output,
) -> Result<(), ToolError> {
    if keep_on {
        let ask = |query: &PageQuery| Ok(client.history(query).map(|page| (page.generations, page.next))?);
        return follow(
            page.limit,
            set,
            ask,
            |g| g.generation,
            |g| output.line(g, render::generation),
        );
    }
    output.answer(&client.history(&page.query(set))?, render::history)
}

/// One set of `policy-diff --json`.
#[derive(Serialize)]
struct Changed {
    set: String,
    before: Option<String>,
    after: Option<String>,
    diff: String,
}

/// `policy-diff --json`.
#[derive(Serialize)]
struct Diff {
    from: u64,
    to: u64,
    sets: Vec<Changed>,
}

pub fn diff(client: &Client, which: &[String], output: &mut Output) -> Result<(), ToolError> {
    let (set, generations) = between(which)?;
    let (from, to) = match generations[..] {
        [from, to] => (from, to),
        [from] => (from, client.history(&PageQuery::default())?.generation),
        _ => {
            let query = PageQuery {
                limit: Some(1),
                set: set.map(str::to_owned),
                ..PageQuery::default()
            };
            let last = client.history(&query)?;
            let last = last.generations.first().ok_or_else(|| {
                ToolError::Usage(match set {
                    Some(set) => format!("the history has no change of a set `{set}`; `xmesh policy-history` lists those that it has"),
                    None => "the policy was never changed: there is nothing to compare".to_owned(),
                })
            })?;
            (last.generation.saturating_sub(1), last.generation)
        }
    };
    let (before, after) = (client.sets_at(from)?.sets, client.sets_at(to)?.sets);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| set.is_none_or(|set| set == *name))
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            let (before, after) = (before.get(name), after.get(name));
            Changed {
                set: name.clone(),
                diff: render::unified(name, (from, before), (to, after)),
                before: before.cloned(),
                after: after.cloned(),
            }
        });
    let diff = Diff {
        from,
        to,
        sets: changed.collect(),
    };
    output.answer(&diff, |diff| {
        let style = style::current();
        diff.sets.iter().map(|set| style.diff(&set.diff)).collect()
    })
}

/// Splits what `policy-diff` is told. A set whose name is a number is taken for one where two generations follow.
fn between(which: &[String]) -> Result<(Option<&str>, Vec<u64>), ToolError> {
    let number = |text: &String| text.parse::<u64>().ok();
    let (set, numbers) = match which {
        [first, rest @ ..] if number(first).is_none() || rest.len() == 2 => (Some(first.as_str()), rest),
        all => (None, all),
    };
    let generations = numbers.iter().map(|text| {
        number(text).ok_or_else(|| {
            ToolError::Usage(format!(
                "`{text}` is no generation; write [SET] [GENERATION [GENERATION]]"
            ))
        })
    });
    Ok((set, generations.collect::<Result<_, _>>()?))
}

pub fn rollback(client: &Client, to: u64, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let done = client.rollback(to, &change.options(), change.if_generation)?;
    output.answer(&done, |a| {
        policy::applied(a, &format!("brought back to generation {to}"))
    })
}

/// `policy-export --json`.
#[derive(Serialize)]
struct Exported {
    file: PathBuf,
    bytes: usize,
    generation: u64,
    sets: usize,
    generations: usize,
    audit_entries: usize,
}

pub fn export(client: &Client, file: &Path, output: &mut Output) -> Result<(), ToolError> {
    let bytes = client.export()?;
    if file == Path::new("-") {
        return output.raw(&bytes);
    }
    // A backup that cannot be read is worse than none: it is believed to be one. A broken audit log is kept as it is.
    let export = Export::from_bytes_unverified(&bytes)?;
    write(file, &bytes).map_err(|source| ToolError::Save {
        path: file.to_owned(),
        source,
    })?;
    let exported = Exported {
        file: file.to_owned(),
        bytes: bytes.len(),
        generation: export.generation,
        sets: export.sets.len(),
        generations: export.history.len(),
        audit_entries: export.audit.entries.len(),
    };
    output.answer(&exported, |e| {
        format!(
            "{}: generation {}, {} sets, {} generations, {} audit entries, {} bytes\n",
            crate::render::plain(&e.file.display().to_string()),
            e.generation,
            e.sets,
            e.generations,
            e.audit_entries,
            e.bytes
        )
    })
}

/// Writes a file so that it is the old one until the new one is whole on the disk.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let written = File::create(&partial).and_then(|mut out| {
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&partial, file)
    });
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

pub fn import(client: &Client, file: &Path, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let bytes = read(file)?;
    // Told here, too, so that a copy can be looked at without a daemon.
    Export::from_bytes(&bytes)?;
    let done = client.import(bytes, &change.options(), change.if_generation)?;
    output.answer(&done, |a| policy::applied(a, "imported"))
}

pub fn audit(client: &Client, audit: &Audit, output: &mut Output) -> Result<(), ToolError> {
    if audit.verify {
        return verified(&client.audit_check(audit.head.as_deref())?, output);
    }
    if audit.follow {
        let ask = |query: &PageQuery| Ok(client.audit(query).map(|page| (page.entries, page.next))?);
        return follow(
            audit.page.limit,
            None,
            ask,
            |e| e.seq,
            |e| output.line(e, render::entry),
        );
    }
    output.answer(&client.audit(&audit.page.query(None))?, render::audit)
}

/// The same of an export.
pub fn audit_of(file: &Path, audit: &Audit, output: &mut Output) -> Result<(), ToolError> {
    let chain = Export::from_bytes_unverified(&read(file)?)?.audit;
    if audit.verify {
        return verified(&AuditCheck::of(&chain, audit.head.as_deref()), output);
    }
    let before = audit.page.before.unwrap_or(u64::MAX);
    let mut newest = chain
        .entries
        .into_iter()
        .rev()
        .filter(|e| e.seq < before)
        .peekable();
    let entries: Vec<_> = newest.by_ref().take(audit.page.limit).collect();
    let page = AuditPage {
        head: chain.head,
        next: newest.peek().and(entries.last()).map(|e| e.seq),
        entries,
    };
    output.answer(&page, render::audit)
}

fn verified(check: &AuditCheck, output: &mut Output) -> Result<(), ToolError> {
    output.answer(check, render::audit_check)?;
    match &check.broken {
        None => Ok(()),
        Some(broken) => {
            output.finish()?;
            Err(ToolError::Broken(broken.clone()))
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ToolError> {
    let mut bytes = Vec::new();
    let result = match file == Path::new("-") {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes),
        false => fs::read(file),
    };
    result.map_err(|source| ToolError::Read {
        path: file.to_owned(),
        source,
    })
}
