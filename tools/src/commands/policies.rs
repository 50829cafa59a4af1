// SPDX-License-Identifier: GPL-3.0-only
//! `policy-*` and `explain`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use policy::document::MAX_TEXT;
use policy::{Document, Finding, Problem};
use policyd_api::{ApplyRequest, Client, ExplainRequest, SourceText};
use serde::Serialize;

use crate::args::{Change, Explain, Stage};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::table::{Align, Table};
use crate::render::{multiline, plain, policy as render, route};
use crate::templates::{self, Template};

pub fn apply(
    client: &Client,
    files: &[PathBuf],
    stage: &Stage,
    change: &Change,
    output: &mut Output,
) -> Result<(), ToolError> {
    let done = match stage.vms.is_empty() {
        true => "applied".to_owned(),
        false => format!("applied for {} first", plain(&stage.vms.join(" "))),
    };
    let request = ApplyRequest {
        documents: documents(files)?,
        dry_run: change.dry_run,
        message: change.message.clone(),
        stage: stage.options(),
    };
    output.answer(&client.apply(&request, change.if_generation)?, |a| {
        render::applied(a, &done)
    })
}

/// The documents of a change. Problems of a document itself are told even if the daemon is away.
pub fn documents(files: &[PathBuf]) -> Result<Vec<SourceText>, ToolError> {
    let document = |file: &PathBuf| {
        let name = file.display().to_string();
        let text = read(file)?;
        Document::parse(&name, &text)?;
        Ok(SourceText { file: name, text })
    };
    files.iter().map(document).collect()
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
    findings: Vec<Finding>,
}

pub fn check(files: &[PathBuf], vms: &[String], output: &mut Output) -> Result<(), ToolError> {
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
                    findings: Vec::new(),
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
        match policy::check(&documents, vms) {
            Ok(findings) => {
                let faulty = findings.iter().any(|finding| !finding.kind.is_note());
                failed = faulty.then_some(ToolError::Questionable);
                for finding in findings {
                    let file = checked.iter_mut().find(|c| c.file == finding.file);
                    if let Some(file) = file {
                        file.findings.push(finding);
                    }
                }
            }
            Err(problems) => failed = Some(problems.into()),
        }
    }
    output.answer(&checked, |checked| {
        checked
            .iter()
            .map(|c| {
                let valid = format!(
                    "{}: policy {}, {} services, {} rules, {} routes, valid\n",
                    plain(&c.file),
                    c.policy,
                    c.services,
                    c.rules,
                    c.routes
                );
                let findings = c.findings.iter().map(|f| format!("{}\n", plain(&f.to_string())));
                findings.fold(valid, |text, finding| text + &finding)
            })
            .collect()
    })?;
    output.finish()?;
    match failed {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One of `policy-template --json`.
#[derive(Serialize)]
struct Offered {
    name: &'static str,
    summary: &'static str,
    text: &'static str,
}

/// Prints a template as it is, or lists them all.
pub fn template(name: Option<&str>, output: &mut Output) -> Result<(), ToolError> {
    let offered = |t: Template| Offered {
        name: t.name,
        summary: t.summary(),
        text: t.body(),
    };
    match name.and_then(Template::named) {
        Some(one) => output.answer(&offered(one), |t| t.text.to_owned()),
        // The parser of the command line lets no other names through.
        None => output.answer(&templates::ALL.map(offered), |all| {
            let mut table = Table::new(&[("Name", Align::Left), ("What for", Align::Left)]);
            for t in all {
                table.row([t.name.to_owned(), t.summary.to_owned()]);
            }
            table.render()
        }),
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
