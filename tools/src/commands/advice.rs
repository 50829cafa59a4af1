// SPDX-License-Identifier: GPL-3.0-only
//! `suggest` and `canary`.

use std::fs;

use policy::Document;
use policy::document::edit::set_weights;
use policyd_advice::canary::{self, Fares, Judged, Move, Rules, Verdict};
use policyd_api::{Applied, ApplyRequest, Client, Route, SignalsQuery, SourceText};
use serde::Serialize;

use crate::args::advice::{Canary, Suggest};
use crate::error::ToolError;
use crate::output::Output;
use crate::render::advice as render;

/// A policy that was learned, or what else is asked for of the answer.
pub fn suggest(client: &Client, asked: &Suggest, output: &mut Output) -> Result<(), ToolError> {
    let answer = client.suggest(&asked.query())?;
    let tables = asked.unused || asked.wide || asked.effect;
    if let Some(path) = &asked.output {
        fs::write(path, &answer.suggestion.text).map_err(|source| ToolError::Save {
            path: path.clone(),
            source,
        })?;
    }
    output.answer(&answer, |answer| {
        let mut text = String::new();
        if asked.unused {
            text += &render::unused(&answer.usage);
        }
        if asked.wide {
            text += &render::wide(&answer.usage);
        }
        if asked.effect {
            text += &render::effect(answer);
        }
        match &asked.output {
            Some(path) => render::summary(answer, path),
            None if tables => text,
            None => render::document(answer),
        }
    })
}

/// How a canary fares, as JSON has it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `SET/ROUTE`.
    pub route: String,
    /// The version compared with.
    pub baseline: String,
    /// The new version.
    pub canary: String,
    /// Its share of the route's flows by weight, in percent.
    pub share: f64,
    /// Seconds that were looked at.
    pub window: u64,
    /// Signal by signal.
    pub signals: Vec<Judged>,
    /// `better`, `same`, `worse` or `too little data`.
    pub verdict: &'static str,
    /// `raise`, `rollback`, `wait` or `done`.
    pub proposal: &'static str,
    /// The share that the proposal comes to, in percent.
    pub proposed_share: f64,
    /// What was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// Judges a canary, and with `--apply` does what follows, if nobody has changed the policy since it was looked at.
/// Ends in an error where the canary is worse: a script asks by the exit status.
pub fn canary(client: &Client, asked: &Canary, output: &mut Output) -> Result<(), ToolError> {
    let (set, name, ports) = resolve(&client.routes()?, &asked.route)?;
    let (seen, document) = client.policy_seen(&set)?;
    let file = format!("{set}.yaml");
    let parsed = Document::parse(&file, &document.text)?;
    let route = parsed.routes().get(&name).ok_or_else(|| {
        ToolError::Usage(format!(
            "set {set} has no route {name} any more; `xmesh routes` lists them"
        ))
    })?;
    let usage = |e: canary::NoWeights| ToolError::Usage(format!("{set}/{name}: {e}"));
    let (baseline, version) =
        canary::versions(route, asked.canary.as_deref(), asked.baseline.as_deref()).map_err(usage)?;
    let id = format!("{set}/{name}");
    let signals = client.signals(&SignalsQuery {
        window: Some(asked.window),
        ..SignalsQuery::default()
    })?;
    let rules = Rules {
        alpha: asked.alpha,
        least: asked.least,
    };
    let fares = |version: &str| Fares::of(&signals, &id, version, &ports);
    let judged = canary::judge(&fares(&baseline), &fares(&version), &rules);
    let verdict = canary::overall(&judged);
    let share = canary::share_of(route, &version);
    let next = match canary::next(verdict, share) {
        // It has none: nothing is left to be taken back.
        Move::Back if share == 0.0 => Move::Wait,
        next => next,
    };
    let (proposal, percent) = match next {
        Move::To(percent) => ("raise", Some(percent)),
        Move::Back => ("rollback", Some(0)),
        Move::Wait => ("wait", None),
        Move::Done => ("done", None),
    };
    let applied = match percent.filter(|_| asked.apply) {
        Some(percent) => {
            let weights = canary::weights(route, &version, percent).map_err(usage)?;
            let text = set_weights(&file, &document.text, &name, &weights)?;
            let why = format!(
                "canary {id}: {version} from {share:.0} % to {percent} %, {}",
                verdict.as_str()
            );
            let request = ApplyRequest {
                documents: vec![SourceText { file, text }],
                dry_run: asked.change.dry_run,
                message: asked.change.message.clone().or(Some(why)),
                stage: None,
            };
            Some(client.apply(&request, asked.change.if_generation.or(seen))?)
        }
        None => None,
    };
    let report = Report {
        route: id,
        baseline,
        canary: version,
        share,
        window: asked.window,
        signals: judged,
        verdict: verdict.as_str(),
        proposal,
        proposed_share: percent.map_or(share, f64::from),
        applied,
    };
    output.answer(&report, render::canary)?;
    match verdict {
        Verdict::Worse => {
            output.finish()?;
            Err(ToolError::Worse(report.canary))
        }
        _ => Ok(()),
    }
}

/// Set, name, and ports on which its backends serve, of the route that is meant.
fn resolve(routes: &[Route], asked: &str) -> Result<(String, String, Vec<u16>), ToolError> {
    let is = |route: &&Route| match asked.contains('/') {
        true => route.name == asked,
        false => route.name.rsplit('/').next() == Some(asked),
    };
    let mut names: Vec<&str> = routes
        .iter()
        .filter(is)
        .map(|route| route.name.as_str())
        .collect();
    names.sort_unstable();
    // One of each family is one route.
    names.dedup();
    let name = match names.as_slice() {
        [one] => *one,
        [] => {
            return Err(ToolError::Usage(format!(
                "no route is named {asked:?}; `xmesh routes` lists them"
            )));
        }
        many => {
            return Err(ToolError::Usage(format!(
                "{asked:?} may be {}; write set and route",
                many.join(" or ")
            )));
        }
    };
    let backends = routes
        .iter()
        .filter(|route| route.name == name)
        .flat_map(|route| &route.backends);
    let ports = backends.map(|backend| backend.address.port()).collect();
    let (set, route) = name.split_once('/').unwrap_or(("", name));
    Ok((set.to_owned(), route.to_owned(), ports))
}
