// SPDX-License-Identifier: GPL-3.0-only
//! Changes of policy, their history and the audit log, as the client asks for them.
//!
//! `if_generation`: the generation that the caller has seen; when another is in force the change is refused with status 412.

use bytes::Bytes;
use hyper::Method;

use super::{Client, ClientError, escape, json};
use crate::control::*;

impl Client {
    /// Validates, stores and enforces policy sets as one change; answers when it is durable and in force.
    pub fn apply(&self, request: &ApplyRequest, if_generation: Option<u64>) -> Result<Applied, ClientError> {
        self.call(Method::POST, "/v1/policies", Some(json(request)?), if_generation)
    }

    /// Removes a policy set.
    pub fn delete(
        &self,
        name: &str,
        options: &ChangeOptions,
        if_generation: Option<u64>,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/policies/{}{}", escape(name), query(options));
        self.call(Method::DELETE, &path, None, if_generation)
    }

    /// Makes all sets what they were at a generation.
    pub fn rollback(
        &self,
        to: u64,
        options: &ChangeOptions,
        if_generation: Option<u64>,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/history/{to}/rollback{}", query(options));
        self.call(Method::POST, &path, None, if_generation)
    }

    /// What is being rolled out.
    pub fn rollout(&self) -> Result<Rollout, ClientError> {
        self.get("/v1/rollout")
    }

    /// Lets what is being rolled out hold for all.
    pub fn promote(
        &self,
        options: &ChangeOptions,
        if_generation: Option<u64>,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/rollout/promote{}", query(options));
        self.call(Method::POST, &path, None, if_generation)
    }

    /// Takes back what is being rolled out.
    pub fn abandon(
        &self,
        options: &ChangeOptions,
        if_generation: Option<u64>,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/rollout/abandon{}", query(options));
        self.call(Method::POST, &path, None, if_generation)
    }

    /// Makes all sets those of an export.
    pub fn import(
        &self,
        file: Vec<u8>,
        options: &ChangeOptions,
        if_generation: Option<u64>,
    ) -> Result<Applied, ClientError> {
        let path = format!("/v1/import{}", query(options));
        self.call(Method::POST, &path, Some(Bytes::from(file)), if_generation)
    }

    /// All sets, their history and the audit log in one file.
    pub fn export(&self) -> Result<Bytes, ClientError> {
        self.bytes(Method::GET, "/v1/export", None, None)
    }

    /// Generations and how they came about, the newest first.
    pub fn history(&self, page: &PageQuery) -> Result<HistoryPage, ClientError> {
        self.get(&format!("/v1/history{}", page_query(page)))
    }

    /// Texts of all sets at a generation.
    pub fn sets_at(&self, generation: u64) -> Result<SetsAt, ClientError> {
        self.get(&format!("/v1/history/{generation}"))
    }

    /// The audit log, the newest first.
    pub fn audit(&self, page: &PageQuery) -> Result<AuditPage, ClientError> {
        self.get(&format!("/v1/audit{}", page_query(page)))
    }

    /// Has the daemon check its audit log; with `noted`, also that it still has the entry with that hash.
    pub fn audit_check(&self, noted: Option<&str>) -> Result<AuditCheck, ClientError> {
        match noted {
            Some(hash) => self.get(&format!("/v1/audit/check?head={}", escape(hash))),
            None => self.get("/v1/audit/check"),
        }
    }
}

fn query(options: &ChangeOptions) -> String {
    let dry_run = options.dry_run.then(|| "dry_run=true".to_owned());
    let message = options.message.as_ref().map(|m| format!("message={}", escape(m)));
    joined([dry_run, message])
}

fn page_query(page: &PageQuery) -> String {
    joined([
        page.before.map(|n| format!("before={n}")),
        page.limit.map(|n| format!("limit={n}")),
        page.set.as_ref().map(|set| format!("set={}", escape(set))),
    ])
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("?{}", parts.join("&")),
    }
}
