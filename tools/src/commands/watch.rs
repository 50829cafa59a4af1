// SPDX-License-Identifier: GPL-3.0-only
//! `events` and `flows`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use policyd_api::{Client, EventFilter, Flow};
use serde::Serialize;

use crate::args::Events;
use crate::error::ToolError;
use crate::output::Output;
use crate::render::{event, flow};

/// How often flows are asked for by who follows: they are counters in the datapath, not events.
const INTERVAL: Duration = Duration::from_secs(1);

pub fn events(client: &Client, events: &Events, output: &mut Output) -> Result<(), ToolError> {
    let filter = EventFilter {
        domain: events.domain.clone(),
        kind: events.kinds(),
        after: None,
        follow: events.follow,
    };
    for event in client.events(&filter)? {
        output.line(&event?, event::sentence)?;
    }
    Ok(())
}

pub fn flows(
    client: &Client,
    domain: Option<&str>,
    follow: bool,
    output: &mut Output,
) -> Result<(), ToolError> {
    if !follow {
        let mut flows = client.flows(domain)?;
        flows.sort_by_cached_key(key);
        return output.answer(&flows, |flows| flow::table(flows));
    }
    let mut before = HashMap::new();
    loop {
        let now: HashMap<Key, Flow> = client.flows(domain)?.into_iter().map(|f| (key(&f), f)).collect();
        for (change, flow) in changes(&before, &now) {
            output.line(&Changed { change, flow }, |c| flow::sentence(c.change, c.flow))?;
        }
        before = now;
        thread::sleep(INTERVAL);
    }
}

/// What tells flows apart.
type Key = (String, String, SocketAddr, SocketAddr);

fn key(flow: &Flow) -> Key {
    (
        flow.domain.clone(),
        flow.protocol.clone(),
        flow.local,
        flow.remote,
    )
}

/// A line of `flows -f --json`.
#[derive(Serialize)]
struct Changed<'f> {
    change: flow::Change,
    #[serde(flatten)]
    flow: &'f Flow,
}

/// What is different between two looks, in the order of the flows' names.
fn changes<'f>(before: &'f HashMap<Key, Flow>, now: &'f HashMap<Key, Flow>) -> Vec<(flow::Change, &'f Flow)> {
    let mut changes: Vec<(&Key, flow::Change, &Flow)> = Vec::new();
    for (key, flow) in now {
        match before.get(key) {
            None => changes.push((key, flow::Change::New, flow)),
            Some(old) if old.decision != flow.decision || old.state != flow.state => {
                changes.push((key, flow::Change::Changed, flow));
            }
            Some(_) => {}
        }
    }
    for (key, flow) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
        changes.push((key, flow::Change::Gone, flow));
    }
    changes.sort_by_key(|(key, ..)| *key);
    changes
        .into_iter()
        .map(|(_, change, flow)| (change, flow))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::{Decision, Verdict};

    fn flow(port: u16, state: &str) -> Flow {
        Flow {
            domain: "web1".into(),
            protocol: "tcp".into(),
            local: ([10, 0, 0, 1], port).into(),
            remote: ([10, 0, 0, 2], 80).into(),
            outgoing: true,
            route: None,
            who: None,
            decision: Decision {
                verdict: Verdict::Allow,
                rule: "shop/r".into(),
                generation: 1,
            },
            packets_out: 1,
            bytes_out: 2048,
            packets_in: 1,
            bytes_in: 60,
            age_ms: 0,
            idle_ms: 0,
            timing: Default::default(),
            state: state.into(),
        }
    }

    fn look(flows: &[Flow]) -> HashMap<Key, Flow> {
        flows.iter().map(|f| (key(f), f.clone())).collect()
    }

    #[test]
    fn following_tells_what_came_changed_and_went() {
        let before = look(&[flow(1, "new"), flow(2, "established"), flow(3, "established")]);
        let now = look(&[flow(1, "established"), flow(2, "established"), flow(4, "new")]);
        let told: Vec<String> = changes(&before, &now)
            .into_iter()
            .map(|(change, f)| flow::sentence(change, f))
            .collect();
        assert_eq!(
            told,
            [
                "changed web1 10.0.0.1:1 → 10.0.0.2:80 tcp established, allow by shop/r, 2.0K out, 60 in",
                "gone    web1 10.0.0.1:3 → 10.0.0.2:80 tcp established, allow by shop/r, 2.0K out, 60 in",
                "new     web1 10.0.0.1:4 → 10.0.0.2:80 tcp new, allow by shop/r, 2.0K out, 60 in",
            ]
        );
        assert!(changes(&now, &now).is_empty());
    }
}
