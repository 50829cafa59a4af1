// SPDX-License-Identifier: GPL-3.0-only
//! What the API asks about policy: changes, which the enforcer makes, and what is read straight from the store.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use policyd_api as api;
use policyd_api::chain::{Attempt, Outcome};
use policyd_api::export::Export;
use policyd_api::{Action, Author};
use policyd_store::{Scope, Store, StoreError};

use crate::daemon::DaemonError;
use crate::enforcer::{Order, Request, Wish};
use crate::events::now_ns;
use crate::rollout::{self, Refused};
use crate::shadow::Asked;
use policyd_advice::Candidate;

/// How long a caller of the API waits for the enforcer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries in an answer unless told.
const PAGE: usize = 100;
/// Most entries in an answer.
const MAX_PAGE: usize = 1000;

impl From<StoreError> for DaemonError {
    fn from(e: StoreError) -> DaemonError {
        let text = e.to_string();
        match e {
            StoreError::NoSuchGeneration { .. } => DaemonError::NoSuchGeneration(text),
            StoreError::NoText { .. } | StoreError::Content(_) => DaemonError::Invalid(text),
            StoreError::Full { .. } => DaemonError::Unavailable(text),
            _ => DaemonError::Internal(text),
        }
    }
}

/// Who a user id is, by dom0's user database.
pub fn author(uid: u32) -> Author {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    Author {
        uid,
        name: user.ok().flatten().map(|user| user.name),
    }
}

/// Policy as the API sees it: what the enforcer is asked, and the store for who only reads.
pub struct Control {
    store: Store,
    orders: Sender<Order>,
    refused: Arc<Refused>,
}

impl Control {
    /// `orders`: to the enforcer; `refused`: what was refused to whom.
    pub fn new(store: Store, orders: Sender<Order>, refused: Arc<Refused>) -> Control {
        Control {
            store,
            orders,
            refused,
        }
    }

    /// How the store is.
    pub fn store_status(&self) -> api::StoreStatus {
        self.store.status()
    }

    fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> Order) -> Result<T, DaemonError> {
        let (reply, answer): (Sender<T>, Receiver<T>) = bounded(1);
        let gone = || DaemonError::Unavailable("policyd is stopping; nothing was changed".into());
        self.orders
            .send_timeout(order(reply), PATIENCE)
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())
    }

    /// `GET /v1/policies`, with the generation in force.
    pub fn policies(&self) -> Result<(u64, Vec<api::PolicySummary>), DaemonError> {
        self.ask(|reply| Order::List { reply })
    }

    /// `GET /v1/policies/{name}`, with the generation in force.
    pub fn policy(&self, name: &str) -> Result<(u64, api::PolicyDocument), DaemonError> {
        self.ask(|reply| Order::Show {
            name: name.to_owned(),
            reply,
        })?
    }

    /// Any change of policy: answers when it is durable and in force.
    pub fn change(&self, request: Request) -> Result<api::Applied, DaemonError> {
        let request = Box::new(request);
        self.ask(|reply| Order::Change { request, reply })?
    }

    /// What is being rolled out, and the generation in force.
    pub fn rollout(&self) -> Result<(u64, Option<api::Stage>), DaemonError> {
        self.ask(|reply| Order::Rollout { reply })?
    }

    /// `GET /v1/rollout`, with the generation in force.
    pub fn rollout_status(&self) -> Result<(u64, api::Rollout), DaemonError> {
        let (generation, stage) = self.rollout()?;
        let status = stage.map(|stage| rollout::status(&self.refused, stage, now_ns()));
        Ok((generation, status.unwrap_or_default()))
    }

    /// Compiles sets beside those in force, in place of those of their names; changes nothing.
    pub fn compile(&self, documents: &[api::SourceText]) -> Result<Candidate, DaemonError> {
        let documents = documents.to_vec();
        self.ask(|reply| Order::Compile { documents, reply })?
    }

    /// Lets sets run beside those in force.
    pub fn set_shadow(&self, asked: Asked) -> Result<(), DaemonError> {
        let asked = Box::new(asked);
        self.ask(|reply| Order::Shadow { asked, reply })
    }

    /// `POST /v1/import`.
    pub fn import(
        &self,
        file: &[u8],
        options: api::ChangeOptions,
        if_generation: Option<u64>,
        by: Author,
    ) -> Result<api::Applied, DaemonError> {
        let export = Export::from_bytes(file).map_err(|e| {
            let why = e.to_string();
            if !options.dry_run {
                self.store.refused(Attempt {
                    time_ns: now_ns(),
                    by: by.clone(),
                    action: Action::Import,
                    what: format!("a file of {} bytes", file.len()),
                    message: None,
                    outcome: Outcome::Refused { why: why.clone() },
                    edits: Vec::new(),
                });
            }
            DaemonError::Invalid(why)
        })?;
        self.change(Request {
            wish: Wish::Import(Box::new(export)),
            by,
            message: options.message,
            if_generation,
            dry_run: options.dry_run,
        })
    }

    /// `GET /v1/export`: the file.
    pub fn export(&self) -> Result<Vec<u8>, DaemonError> {
        let export = self.store.export(Scope::All)?;
        export
            .to_bytes()
            .map_err(|e| DaemonError::Internal(e.to_string()))
    }

    /// `GET /v1/history`.
    pub fn history(&self, query: &api::PageQuery) -> Result<api::HistoryPage, DaemonError> {
        let limit = limit(query)?;
        let before = query.before.unwrap_or(u64::MAX);
        let (mut generations, oldest) = self.store.history(before, limit + 1, query.set.as_deref())?;
        let more = generations.len() > limit;
        generations.truncate(limit);
        Ok(api::HistoryPage {
            generation: self.store.generation()?,
            oldest,
            next: generations.last().filter(|_| more).map(|g| g.generation),
            generations,
        })
    }

    /// `GET /v1/history/{generation}`.
    pub fn sets_at(&self, generation: u64) -> Result<api::SetsAt, DaemonError> {
        let sets = self.store.sets_at(generation)?;
        Ok(api::SetsAt {
            generation,
            sets: sets.into_iter().map(|(name, _, text)| (name, text)).collect(),
        })
    }

    /// The sets as they are stored.
    pub fn texts(&self) -> Result<Vec<api::SourceText>, DaemonError> {
        let (_, sets) = self.store.sets()?;
        let text = |set: policyd_store::Set| api::SourceText {
            file: set.record.version.file,
            text: set.text,
        };
        Ok(sets.into_iter().map(|(_, set)| text(set)).collect())
    }

    /// `GET /v1/audit`.
    pub fn audit(&self, query: &api::PageQuery) -> Result<api::AuditPage, DaemonError> {
        let limit = limit(query)?;
        let (mut entries, head) = self.store.audit(query.before.unwrap_or(u64::MAX), limit + 1)?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(api::AuditPage {
            head,
            next: entries.last().filter(|_| more).map(|e| e.seq),
            entries,
        })
    }

    /// `GET /v1/audit/check`.
    pub fn audit_check(&self, noted: Option<&str>) -> Result<api::AuditCheck, DaemonError> {
        Ok(api::AuditCheck::of(&self.store.chain()?, noted))
    }
}

fn limit(query: &api::PageQuery) -> Result<usize, DaemonError> {
    match query.limit.unwrap_or(PAGE) {
        0 => Err(DaemonError::Invalid("a limit is 1 to 1000".into())),
        n if n > MAX_PAGE => Err(DaemonError::Invalid(format!(
            "a limit is 1 to {MAX_PAGE}, not {n}; ask for the rest with `before`"
        ))),
        n => Ok(n),
    }
}
