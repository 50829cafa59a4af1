// SPDX-License-Identifier: GPL-3.0-only
//! `policy-rollout`, `policy-promote`, `policy-abandon`.

use policyd_api::Client;

use crate::args::Change;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::{policy, rollout as render};

pub fn status(client: &Client, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.rollout()?, render::status)
}

pub fn promote(client: &Client, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let done = client.promote(&change.options(), change.if_generation)?;
    output.answer(&done, |a| policy::applied(a, "promoted: for all VMs now"))
}

pub fn abandon(client: &Client, change: &Change, output: &mut Output) -> Result<(), ToolError> {
    let done = client.abandon(&change.options(), change.if_generation)?;
    output.answer(&done, |a| policy::applied(a, "abandoned: for all VMs as before"))
}
