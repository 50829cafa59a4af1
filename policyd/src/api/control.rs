// SPDX-License-Identifier: GPL-3.0-only
//! Routes of policy: changes, history, audit log, exports.
//!
//! Answers about the policy have its generation as ETag; a change with `If-Match` is refused (412) when another is in force.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use policyd_api::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::describe::{About, Gives, Schemas, etag, response};
use super::door::{Caller, Doorman};
use super::grants::Role::{Admin, Operator, Viewer};
use super::handlers::{Answer, Refusal, blocking, tag};
use super::inputs::{Asked, Body, IfMatch, Segment, Upload};
use super::table::Table;
use crate::control::Control;
use crate::enforcer::{Request, Wish};

/// The routes.
pub fn routes(door: &Arc<Doorman>, control: Arc<Control>) -> Table {
    Table::new(door)
        .get("/v1/policies", Viewer, "Policy sets in force.", policies)
        .post(
            "/v1/policies",
            Operator,
            "Puts policy sets in force, all of them by one change or none.",
            apply,
        )
        .get(
            "/v1/policies/{name}",
            Viewer,
            "One policy set with its text.",
            policy,
        )
        .delete(
            "/v1/policies/{name}",
            Operator,
            "Takes a policy set out of force.",
            delete,
        )
        .get(
            "/v1/history",
            Viewer,
            "Generations of the policy, the newest first.",
            history,
        )
        .get(
            "/v1/history/{generation}",
            Viewer,
            "Texts of all sets at a generation.",
            sets_at,
        )
        .post(
            "/v1/history/{generation}/rollback",
            Operator,
            "Makes all sets what they were at a generation.",
            rollback,
        )
        .get(
            "/v1/rollout",
            Viewer,
            "What holds for some VMs first, and what was refused to them.",
            rollout,
        )
        .post(
            "/v1/rollout/promote",
            Operator,
            "Lets what holds for some VMs hold for all.",
            promote,
        )
        .post(
            "/v1/rollout/abandon",
            Operator,
            "Takes back what holds for some VMs.",
            abandon,
        )
        .get(
            "/v1/audit",
            Operator,
            "Who asked for which change and what became of it, the newest first.",
            audit,
        )
        .get(
            "/v1/audit/check",
            Operator,
            "Checks that the audit log is whole.",
            audit_check,
        )
        .get(
            "/v1/export",
            Admin,
            "All sets, their history and the audit log as a file.",
            export,
        )
        .post("/v1/import", Admin, "Makes all sets those of an export.", import)
        .with_state(control)
}

/// An answer with the generation in force as its ETag.
struct Tagged<T>(u64, T);

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.1).into_response();
        tag(&mut response, self.0);
        response
    }
}

type Reply<T> = Result<Tagged<T>, Refusal>;

impl<T: JsonSchema> Gives for Reply<T> {
    fn describe(about: &mut About, schemas: &mut Schemas) {
        let mut answer = response("The answer.", "application/json", &schemas.answer::<T>());
        answer["headers"] = etag();
        about.answer = Some(answer);
    }
}

/// The file of an export.
struct File(Vec<u8>);

impl IntoResponse for File {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/octet-stream")], self.0).into_response()
    }
}

impl Gives for Result<File, Refusal> {
    fn describe(about: &mut About, _: &mut Schemas) {
        about.answer = Some(response("The file.", "application/octet-stream", &json!({})));
    }
}

fn changed(applied: Applied) -> Tagged<Applied> {
    Tagged(applied.generation, applied)
}

async fn policies(State(control): State<Arc<Control>>) -> Reply<Vec<PolicySummary>> {
    let Json((generation, sets)) = blocking(move || control.policies()).await?;
    Ok(Tagged(generation, sets))
}

async fn policy(
    State(control): State<Arc<Control>>,
    Segment(name): Segment<String>,
) -> Reply<PolicyDocument> {
    let Json((generation, set)) = blocking(move || control.policy(&name)).await?;
    Ok(Tagged(generation, set))
}

async fn change(
    control: Arc<Control>,
    caller: Caller,
    if_generation: Option<u64>,
    wish: Wish,
    options: ChangeOptions,
) -> Reply<Applied> {
    let work = move || {
        control.change(Request {
            wish,
            by: caller.author(),
            message: options.message,
            if_generation,
            dry_run: options.dry_run,
        })
    };
    let Json(applied) = blocking(work).await?;
    Ok(changed(applied))
}

async fn apply(
    State(control): State<Arc<Control>>,
    caller: Caller,
    IfMatch(if_generation): IfMatch,
    Body(request): Body<ApplyRequest>,
) -> Reply<Applied> {
    let options = ChangeOptions {
        dry_run: request.dry_run,
        message: request.message,
    };
    let wish = match request.stage {
        Some(stage) => Wish::Stage(request.documents, stage),
        None => Wish::Apply(request.documents),
    };
    change(control, caller, if_generation, wish, options).await
}

async fn rollout(State(control): State<Arc<Control>>) -> Reply<Rollout> {
    let Json((generation, rollout)) = blocking(move || control.rollout_status()).await?;
    Ok(Tagged(generation, rollout))
}

async fn promote(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(options): Asked<ChangeOptions>,
    IfMatch(if_generation): IfMatch,
) -> Reply<Applied> {
    change(control, caller, if_generation, Wish::Promote, options).await
}

async fn abandon(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(options): Asked<ChangeOptions>,
    IfMatch(if_generation): IfMatch,
) -> Reply<Applied> {
    change(control, caller, if_generation, Wish::Abandon, options).await
}

async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Segment(name): Segment<String>,
    Asked(options): Asked<ChangeOptions>,
    IfMatch(if_generation): IfMatch,
) -> Reply<Applied> {
    change(control, caller, if_generation, Wish::Delete(name), options).await
}

async fn rollback(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Segment(generation): Segment<u64>,
    Asked(options): Asked<ChangeOptions>,
    IfMatch(if_generation): IfMatch,
) -> Reply<Applied> {
    change(
        control,
        caller,
        if_generation,
        Wish::Rollback(generation),
        options,
    )
    .await
}

async fn import(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Asked(options): Asked<ChangeOptions>,
    IfMatch(if_generation): IfMatch,
    Upload(file): Upload,
) -> Reply<Applied> {
    let work = move || control.import(&file, options, if_generation, caller.author());
    let Json(applied) = blocking(work).await?;
    Ok(changed(applied))
}

async fn export(State(control): State<Arc<Control>>) -> Result<File, Refusal> {
    let Json(file) = blocking(move || control.export()).await?;
    Ok(File(file))
}

async fn history(State(control): State<Arc<Control>>, Asked(query): Asked<PageQuery>) -> Reply<HistoryPage> {
    let Json(page) = blocking(move || control.history(&query)).await?;
    Ok(Tagged(page.generation, page))
}

async fn sets_at(State(control): State<Arc<Control>>, Segment(generation): Segment<u64>) -> Answer<SetsAt> {
    blocking(move || control.sets_at(generation)).await
}

async fn audit(State(control): State<Arc<Control>>, Asked(query): Asked<PageQuery>) -> Answer<AuditPage> {
    blocking(move || control.audit(&query)).await
}

/// Query of `/v1/audit/check`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Noted {
    /// The hash of an entry that was noted elsewhere: does the log still have it?
    head: Option<String>,
}

async fn audit_check(State(control): State<Arc<Control>>, Asked(noted): Asked<Noted>) -> Answer<AuditCheck> {
    blocking(move || control.audit_check(noted.head.as_deref())).await
}

#[cfg(test)]
mod tests;
