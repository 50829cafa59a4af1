// SPDX-License-Identifier: GPL-3.0-only
//! The web page, in a browser.

use std::process::Command;

use xmesh_rig::{Progress, programs, setup};

use super::{Count, Echo, NOT_HERE, Ran, copied};
use crate::web;

/// Runs its tests. Where there is no browser, or what they need cannot be fetched, that is said and not counted.
pub fn run() -> anyhow::Result<Count> {
    let progress = Progress::new(false);
    let installed = setup::ensure(setup::BROWSER, &progress).map_err(anyhow::Error::from);
    if let Err(error) = installed.and_then(|()| web::ensure_npm(&progress)) {
        eprintln!("note: the web page was not tried in a browser: {error:#}");
        return Ok(Count::default());
    }
    let Ran {
        output,
        errors,
        status,
    } = copied(
        &mut Command::new(programs::workspace().join("tests/web.sh")),
        Echo::Live,
    )?;
    if status.code() == Some(NOT_HERE) {
        eprintln!("note: the web page was not tried in a browser");
        return Ok(Count::default());
    }
    Ok(Count::of(&output, &errors, status.success()))
}
