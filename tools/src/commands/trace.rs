// SPDX-License-Identifier: GPL-3.0-only
//! `trace`.

use policyd_api::{Client, TraceFilter, TraceItem};

use crate::args::Trace;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::trace;

pub fn trace(client: &Client, wanted: &Trace, output: &mut Output) -> Result<(), ToolError> {
    let filter = TraceFilter {
        syscall: wanted.syscall.join(","),
        pid: wanted.pid,
        exe: wanted.exe.clone(),
        limit: wanted.limit,
        count: wanted.count,
        duration: wanted.duration,
    };
    for item in client.trace(&wanted.domain, &filter)? {
        let item = item?;
        output.line(&item, trace::sentence)?;
        if let TraceItem::End { why: Some(why) } = item {
            return Err(ToolError::Ended(why));
        }
    }
    Ok(())
}
