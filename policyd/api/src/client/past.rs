// SPDX-License-Identifier: GPL-3.0-only
//! Flows of the past, and policies that are tried on them or beside the one in force.

use hyper::Method;

use super::{Client, ClientError, escape, json};
use crate::{
    PastPage, PastQuery, Replay, ReplayRequest, ShadowRequest, ShadowStatus, SuggestQuery, Suggested,
};

impl Client {
    /// Flows of the past, those with most flows first.
    pub fn past_flows(&self, query: &PastQuery) -> Result<PastPage, ClientError> {
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}={}", escape(&value))));
        };
        add("since", query.since.map(|n| n.to_string()));
        add("until", query.until.map(|n| n.to_string()));
        add("from", query.from.clone());
        add("to", query.to.clone());
        add("port", query.port.map(|n| n.to_string()));
        add("protocol", query.protocol.clone());
        add("verdict", query.verdict.map(|v| v.as_str().to_owned()));
        add("rule", query.rule.clone());
        add("limit", query.limit.map(|n| n.to_string()));
        add("skip", query.skip.map(|n| n.to_string()));
        let query = match parts.is_empty() {
            true => String::new(),
            false => format!("?{}", parts.join("&")),
        };
        self.get(&format!("/v1/flows/history{query}"))
    }

    /// What sets would have done to flows of the past.
    pub fn replay(&self, request: &ReplayRequest) -> Result<Replay, ClientError> {
        self.call(Method::POST, "/v1/replay", Some(json(request)?), None)
    }

    /// The least policy that allows what was seen, and what of the policy in force was used.
    pub fn suggest(&self, query: &SuggestQuery) -> Result<Suggested, ClientError> {
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}={}", escape(&value))));
        };
        add("since", query.since.map(|n| n.to_string()));
        add("until", query.until.map(|n| n.to_string()));
        add("vm", query.vm.clone());
        add("name", query.name.clone());
        add("exact", query.exact.map(|is| is.to_string()));
        add("unknown", query.unknown.map(|is| is.to_string()));
        add("widest", query.widest.map(|n| n.to_string()));
        add("widest6", query.widest6.map(|n| n.to_string()));
        add("tried", query.tried.map(|n| n.to_string()));
        self.get(&format!("/v1/suggest?{}", parts.join("&")))
    }

    /// The policy that runs beside the one in force.
    pub fn shadow(&self) -> Result<ShadowStatus, ClientError> {
        self.get("/v1/shadow")
    }

    /// Lets sets run beside those in force, in place of what did so before; without documents nothing does.
    pub fn set_shadow(&self, request: &ShadowRequest) -> Result<ShadowStatus, ClientError> {
        self.call(Method::PUT, "/v1/shadow", Some(json(request)?), None)
    }
}
