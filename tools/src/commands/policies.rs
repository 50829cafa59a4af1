// SPDX-License-Identifier: GPL-3.0-only
//! `policy-*` and `explain`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use policy::document::MAX_TEXT;
use policy::{Document, Problem, Ruleset};
use policyd_api::{ApplyRequest, Client, ExplainRequest, SourceText};
use serde::Serialize;

use crate::args::{Change, Explain};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::{multiline, plain, policy as render, route};

pub fn apply(
    client: &Client,
    files: &[PathBuf],
    change: &Change,
    output: &mut Output,
) -> Result<(), ToolError> {
    let mut documents = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let text = read(file)?;
        // Problems of the document itself are told even if the daemon is away.
        Document::parse(&name, &text)?;
        documents.push(SourceText { file: name, text });
    }
    let request = ApplyRequest {
        documents,
        dry_run: change.dry_run,
        message: change.message.clone(),
    };
    output.answer(&client.apply(&request, change.if_generation)?, |a| {
        render::applied(a, "applied")
    })
}

pub fn routes(client: &Client, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.routes()?, |routes| route::table(routes))
}

pub fn list(client: &Client, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.policies()?, |policies| render::list(policies))
}

pub fn show(client: &Client, name: &str, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.policy(name)?, |document| {
        let mut text = multiline(&document.text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    })
}

pub fn delete(client: &Client, name: &str, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let done = client.delete(name, &change.options(), change.if_generation)?;
    output.answer(&done, |a| render::applied(a, "deleted"))
}

/// One file of `policy-check --json`.
#[derive(Serialize)]
struct Checked {
    file: String,
    policy: String,
    services: usize,
    rules: usize,
    routes: usize,
}

pub fn check(files: &[PathBuf], output: &mut Output) -> Result<(), ToolError> {
    let mut documents = Vec::new();
    let mut checked = Vec::new();
    let mut failed = None;
    for file in files {
        let name = file.display().to_string();
        match read(file).and_then(|text| Ok(Document::parse(&name, &text)?)) {
            Ok(document) => {
                checked.push(Checked {
                    file: name,
                    policy: document.name().to_owned(),
                    services: document.services().len(),
                    routes: document.routes().len(),
                    rules: document.rules().len(),
                });
                documents.push(document);
            }
            // Every file is looked at; the last bad one is what ends the command.
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    eprintln!("{}", multiline(&earlier.to_string()));
                }
            }
        }
    }
    if failed.is_none() {
        failed = Ruleset::compile(&documents, 0).err().map(ToolError::from);
    }
    output.answer(&checked, |checked| {
        checked
            .iter()
            .map(|c| {
                format!(
                    "{}: policy {}, {} services, {} rules, {} routes, valid\n",
                    plain(&c.file),
                    c.policy,
                    c.services,
                    c.rules,
                    c.routes
                )
            })
            .collect()
    })?;
    output.finish()?;
    match failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

pub fn explain(client: &Client, flow: &Explain, output: &mut Output) -> Result<(), ToolError> {
    let (from, exe) = flow.source();
    if let Some(exe) = exe.filter(|exe| !exe.starts_with('/')) {
        return Err(ToolError::Usage(format!(
            "`{exe}` is not a path; write the program's whole path, as in --from {from}:/usr/bin/{exe}"
        )));
    }
    let request = ExplainRequest {
        from: from.to_owned(),
        exe: exe.map(str::to_owned),
        uid: flow.uid,
        to: flow.to.clone(),
        port: flow.port,
        protocol: flow.protocol.clone(),
    };
    output.answer(&client.explain(&request)?, render::explained)
}

/// Reads a document; of one that is too long only as much as shows that it is.
fn read(path: &Path) -> Result<String, ToolError> {
    let limit = MAX_TEXT as u64 + 1;
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    result.map_err(|source| ToolError::Read {
        path: path.to_owned(),
        source,
    })?;
    // Where the limit cuts a character in two, the text is too long all the same.
    if bytes.len() as u64 == limit {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let good = String::from_utf8_lossy(good);
        let line = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let problem = Problem {
            file: path.display().to_string(),
            line: number(line),
            column: number(column),
            what: "a byte that is not UTF-8".to_owned(),
            remedy: "save the file as UTF-8".to_owned(),
        };
        ToolError::Policy(problem.into())
    })
}
