// SPDX-License-Identifier: GPL-3.0-only
//! What each command asks of the daemon.

mod domains;
mod inspect;
mod policies;
mod policy_history;
mod trace;
mod watch;

use policyd_api::Client;

use crate::args::{Args, Audit, Command};
use crate::error::ToolError;
use crate::output::Output;

/// Runs the command of the line.
pub fn run(args: &Args, output: &mut Output) -> Result<(), ToolError> {
    // The commands that want no daemon.
    match &args.command {
        Command::PolicyCheck { files } => return policies::check(files, output),
        Command::Inspect { file } => return inspect::inspect(file, output),
        Command::Audit(audit @ Audit { file: Some(file), .. }) => {
            return policy_history::audit_of(file, audit, output);
        }
        _ => {}
    }
    let client = Client::new(&args.socket)?;
    match &args.command {
        Command::List { verbose } => domains::list(&client, *verbose, output),
        Command::Info => domains::info(&client, output),
        Command::Ps { domain, wide } => domains::processes(&client, domain, *wide, output),
        Command::Probes { domain } => domains::probes(&client, domain.as_deref(), output),
        Command::Conns { domain } => domains::connections(&client, domain, output),
        Command::Inspect { file } => inspect::inspect(file, output),
        Command::Graph { domain } => domains::graph(&client, domain, output),
        Command::Check { domain } => domains::check(&client, domain, output),
        Command::Events(events) => watch::events(&client, events, output),
        Command::Trace(trace) => trace::trace(&client, trace, output),
        Command::Flows { follow, domain } => watch::flows(&client, domain.as_deref(), *follow, output),
        Command::Routes => policies::routes(&client, output),
        Command::Qos { domain } => domains::qos(&client, domain.as_deref(), output),
        Command::Stats { domain } => domains::stats(&client, domain.as_deref(), output),
        Command::PolicyApply { files, change } => policies::apply(&client, files, change, output),
        Command::PolicyList => policies::list(&client, output),
        Command::PolicyShow { name } => policies::show(&client, name, output),
        Command::PolicyDelete { name, change } => policies::delete(&client, name, change, output),
        Command::PolicyHistory { set, page } => {
            policy_history::history(&client, set.as_deref(), page, output)
        }
        Command::PolicyDiff { which } => policy_history::diff(&client, which, output),
        Command::PolicyRollback { generation, change } => {
            policy_history::rollback(&client, *generation, change, output)
        }
        Command::PolicyExport { file } => policy_history::export(&client, file, output),
        Command::PolicyImport { file, change } => policy_history::import(&client, file, change, output),
        Command::Audit(audit) => policy_history::audit(&client, audit, output),
        Command::PolicyCheck { files } => policies::check(files, output),
        Command::Explain(flow) => policies::explain(&client, flow, output),
    }
}
