// SPDX-License-Identifier: GPL-3.0-only
//! `inspect`: a guest from a dump of its memory.

use std::path::Path;

use vmi_xen::offline::Offline;

use crate::error::ToolError;
use crate::output::Output;
use crate::render::guest::{self, Guest};

pub fn inspect(file: &Path, output: &mut Output) -> Result<(), ToolError> {
    let offline = Offline::open(file)?;
    let not_understood = |source| ToolError::Guest {
        path: file.to_owned(),
        source,
    };
    let linux = &offline.linux;
    let processes = linux.processes().map_err(not_understood)?;
    let sockets = linux.held_sockets().map_err(not_understood)?;
    output.answer(&Guest::new(&offline, &processes, &sockets), guest::text)?;
    match offline.missing {
        0 => Ok(()),
        missing => {
            // What there is first, wherever both streams go.
            output.finish()?;
            Err(ToolError::Incomplete {
                path: file.to_owned(),
                missing,
            })
        }
    }
}
