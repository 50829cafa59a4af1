// SPDX-License-Identifier: GPL-3.0-only
//! `list`, `info`, `ps`, `probes`, `conns`, `check`, `graph`, `qos`, `stats`.

use policyd_api::{Client, Severity};

use crate::error::ToolError;
use crate::output::Output;
use crate::render::{check, domain, graph, qos, stats};

pub fn list(client: &Client, verbose: bool, output: &mut Output) -> Result<(), ToolError> {
    let domains = client.domains()?;
    output.answer(&domains, |domains| domain::list(domains, verbose))?;
    if !verbose && let Some(remark) = domain::remark(&domains) {
        // The table first, wherever both streams go.
        output.finish()?;
        eprintln!("{remark}");
    }
    Ok(())
}

pub fn qos(client: &Client, name: Option<&str>, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.qos(name)?, qos::table)
}

pub fn stats(client: &Client, name: Option<&str>, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.stats(name)?, stats::tables)
}

pub fn info(client: &Client, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.status()?, domain::status)
}

pub fn processes(client: &Client, name: &str, wide: bool, output: &mut Output) -> Result<(), ToolError> {
    let mut processes = client.processes(name)?;
    processes.sort_by_key(|p| p.pid);
    output.answer(&processes, |p| domain::processes(p, wide))
}

pub fn probes(client: &Client, name: Option<&str>, output: &mut Output) -> Result<(), ToolError> {
    let mut domains = client.domains()?;
    if let Some(name) = name {
        // As xl: a name first, then an id.
        let found = domains
            .iter()
            .position(|d| d.name == name)
            .or_else(|| domains.iter().position(|d| d.id.to_string() == name))
            .ok_or_else(|| ToolError::NoDomain(name.to_owned()))?;
        domains = vec![domains.swap_remove(found)];
    }
    domains.retain(|d| !d.probes.is_empty());
    output.answer(&domains, |domains| domain::probes(domains))
}

pub fn connections(client: &Client, name: &str, output: &mut Output) -> Result<(), ToolError> {
    let mut connections = client.connections(name)?;
    // Listeners first, as what a domain offers is what is asked most.
    connections.sort_by_key(|c| (c.remote.is_some(), c.protocol.clone(), c.local, c.remote));
    output.answer(&connections, |c| domain::connections(c))
}

pub fn check(client: &Client, name: &str, output: &mut Output) -> Result<(), ToolError> {
    let check = client.check(name)?;
    output.answer(&check, check::report)?;
    match check.worst() {
        Some(Severity::Warning | Severity::Alert) => {
            output.finish()?;
            Err(ToolError::Found)
        }
        Some(Severity::Notice) | None => Ok(()),
    }
}

pub fn graph(client: &Client, name: &str, output: &mut Output) -> Result<(), ToolError> {
    output.answer(&client.graph(name)?, graph::dot)
}
