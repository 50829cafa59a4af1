// SPDX-License-Identifier: GPL-3.0-only
//! `policy-edit`.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use policy::Document;
use policyd_api::{ApplyRequest, Client, SourceText};

use crate::args::Change;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::policy as render;

/// Has a set edited, and puts it in force if nobody else has changed the policy meanwhile.
pub fn edit(client: &Client, name: &str, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let (seen, document) = client.policy_seen(name)?;
    let save = |source| ToolError::Save {
        path: std::env::temp_dir(),
        source,
    };
    let mut file = tempfile::Builder::new()
        .prefix(&format!("xmesh-{name}-"))
        .suffix(".yaml")
        .tempfile()
        .map_err(save)?;
    file.write_all(document.text.as_bytes()).map_err(save)?;
    run_editor(file.path())?;
    let text = fs::read_to_string(file.path()).map_err(|source| ToolError::Read {
        path: file.path().to_owned(),
        source,
    })?;
    if text == document.text {
        return output.raw(b"the text is as it was; nothing was changed\n");
    }
    let apply = || {
        Document::parse(&file.path().display().to_string(), &text)?;
        let request = ApplyRequest {
            documents: vec![SourceText {
                file: format!("{name}.yaml"),
                text: text.clone(),
            }],
            dry_run: change.dry_run,
            message: change.message.clone(),
            stage: None,
        };
        Ok(client.apply(&request, change.if_generation.or(seen))?)
    };
    match apply() {
        Ok(done) => output.answer(&done, |done| render::applied(done, "applied")),
        // Nobody is to write it twice.
        Err(error) => match file.keep() {
            Ok((_, path)) => Err(ToolError::Kept {
                path,
                error: Box::new(error),
            }),
            Err(_) => Err(error),
        },
    }
}

/// Runs the editor of `VISUAL` or `EDITOR`, which may have arguments of its own.
fn run_editor(file: &Path) -> Result<(), ToolError> {
    let named = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let editor = named
        .filter(|editor| !editor.trim().is_empty())
        .unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(file)
        .status();
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => io::Error::other(status.to_string()),
        Err(error) => error,
    };
    Err(ToolError::Usage(format!(
        "the editor `{editor}` failed: {why}; nothing was changed. Name another with EDITOR"
    )))
}
