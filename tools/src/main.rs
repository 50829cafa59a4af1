// SPDX-License-Identifier: GPL-3.0-only
//! xmesh: the xl-style tool of the mesh.
//!
//! Thin: arguments in, one request to policyd, its answer as a table, a sentence or JSON. Nothing is decided
//! here, but for `policy-check` and `policy-template`, which need no daemon.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod completion;
mod doctor;
mod error;
mod output;
mod render;
mod templates;
mod top;
mod web;

use std::process::ExitCode;

use clap::Parser;

use args::Args;
use error::ToolError;
use output::Output;

fn main() -> ExitCode {
    completion::answer();
    let args = Args::parse();
    render::style::settle(args.color);
    let mut output = Output::new(args.json);
    let result = commands::run(&args, &mut output).and_then(|()| output.finish());
    match result {
        Ok(()) | Err(ToolError::ReaderGone) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", render::multiline(&error.to_string()));
            ExitCode::from(error.exit_status())
        }
    }
}
