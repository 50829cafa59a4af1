// SPDX-License-Identifier: GPL-3.0-only
//! What each command asks of the daemon.

pub mod advice;
mod doctor;
mod domains;
mod edit;
mod follow;
mod inspect;
mod measure;
mod past;
mod policies;
mod policy_history;
mod rollout;
mod signals;
mod threats;
mod top;
mod trace;
mod watch;
mod web;

use crate::args::{Args, Audit, Command};
use crate::completion;
use crate::error::ToolError;
use crate::output::Output;

/// Runs the command of the line.
pub fn run(args: &Args, output: &mut Output) -> Result<(), ToolError> {
    // The commands that want no daemon.
    match &args.command {
        Command::Measure(asked) => return measure::measure(asked, output),
        Command::PolicyCheck { files, vms } => return policies::check(files, vms, output),
        Command::PolicySchema => return output.raw(policy::document::SCHEMA.as_bytes()),
        Command::Inspect { file } => return inspect::inspect(file, output),
        Command::PolicyTemplate { name } => return policies::template(name.as_deref(), output),
        Command::Completions { shell } => return output.raw(&completion::script(*shell)?),
        Command::Audit(audit @ Audit { file: Some(file), .. }) => {
            return policy_history::audit_of(file, audit, output);
        }
        _ => {}
    }
    let client = args.remote.client(&args.socket)?;
    if let Command::Web { port } = &args.command {
        return web::web(client, *port, output);
    }
    match &args.command {
        Command::List { verbose } => domains::list(&client, *verbose, output),
        Command::Doctor => doctor::doctor(&client, output),
        Command::Info => domains::info(&client, output),
        Command::Ps { domain, wide } => domains::processes(&client, domain, *wide, output),
        Command::Probes { domain } => domains::probes(&client, domain.as_deref(), output),
        Command::Conns { domain } => domains::connections(&client, domain, output),
        Command::Inspect { file } => inspect::inspect(file, output),
        Command::Graph { domain } => domains::graph(&client, domain, output),
        Command::Check { domain } => domains::check(&client, domain, output),
        Command::Measure(asked) => measure::measure(asked, output),
        Command::Measured(asked) => measure::measured(&client, asked, output),
        Command::Threats(asked) => threats::threats(&client, asked, output),
        Command::Events(events) => watch::events(&client, events, output),
        Command::Trace(trace) => trace::trace(&client, trace, output),
        Command::Flows { follow, domain, past } => match past.query() {
            Some(query) => past::flows(&client, &query, output),
            None => watch::flows(&client, domain.as_deref(), *follow, output),
        },
        // Takes the client for itself, above.
        Command::Web { .. } => Ok(()),
        Command::PolicyReplay(replay) => past::replay(&client, replay, output),
        Command::PolicyShadow(shadow) => past::shadow(&client, shadow, output),
        Command::Suggest(asked) => advice::suggest(&client, asked, output),
        Command::Canary(asked) => advice::canary(&client, asked, output),
        Command::Routes => policies::routes(&client, output),
        Command::Qos { domain } => domains::qos(&client, domain.as_deref(), output),
        Command::Stats { domain } => domains::stats(&client, domain.as_deref(), output),
        Command::PolicyApply { files, stage, change } => {
            policies::apply(&client, files, stage, change, output)
        }
        Command::PolicyRollout => rollout::status(&client, output),
        Command::PolicyPromote { change } => rollout::promote(&client, change, output),
        Command::PolicyAbandon { change } => rollout::abandon(&client, change, output),
        Command::Signals(asked) => signals::signals(&client, asked, output),
        Command::Top(asked) => top::top(client, args, asked, output),
        Command::PolicyEdit { name, change } => edit::edit(&client, name, change, output),
        Command::PolicyList => policies::list(&client, output),
        Command::PolicyShow { name } => policies::show(&client, name, output),
        Command::PolicyDelete { name, change } => policies::delete(&client, name, change, output),
        Command::PolicyHistory { set, follow, page } => {
            policy_history::history(&client, set.as_deref(), *follow, page, output)
        }
        Command::PolicyDiff { which } => policy_history::diff(&client, which, output),
        Command::PolicyRollback { generation, change } => {
            policy_history::rollback(&client, *generation, change, output)
        }
        Command::PolicyExport { file } => policy_history::export(&client, file, output),
        Command::PolicyImport { file, change } => policy_history::import(&client, file, change, output),
        Command::Audit(audit) => policy_history::audit(&client, audit, output),
        Command::PolicyCheck { files, vms } => policies::check(files, vms, output),
        Command::PolicySchema => output.raw(policy::document::SCHEMA.as_bytes()),
        Command::PolicyTemplate { name } => policies::template(name.as_deref(), output),
        Command::Completions { shell } => output.raw(&completion::script(*shell)?),
        Command::Explain(flow) => policies::explain(&client, flow, output),
    }
}
