// SPDX-License-Identifier: GPL-3.0-only
//! The document. Deterministic: services, rules and lists are in the order of their names and contents.

use std::fmt::Write;

use policy::document::MAX_TEXT;
use policy::{Document, PortRange, Protocol};
use policyd_api::PastFlow;

use super::names::{Named, Peer, Plan, Service};
use super::seen::Sorted;
use super::yaml::{comment, guest as guest_pattern, list, path, scalar};
use super::{Container, Options, Sample, SuggestError, by_flows, parse};
use crate::calendar::timestamp;

/// Kinds of flow that each list at the end shows.
const SHOWN: usize = 30;
/// Lists that are longer have a line for each value.
const LINE: usize = 8;

/// What goes into a document.
pub struct Whole<'a, 'f> {
    pub options: &'a Options,
    pub span: (u64, u64),
    pub sorted: &'a Sorted<'f>,
    pub covered: &'a [String],
    pub plan: &'a Plan<'f>,
    pub opened: &'a [Sample<'f>],
}

impl Whole<'_, '_> {
    /// The document, read back, and its text. Where that is too long examples are left out.
    pub fn document(&self) -> Result<(Document, String), SuggestError> {
        let mut text = self.text(true);
        if text.len() > MAX_TEXT {
            text = self.text(false);
        }
        Ok((parse(self.options, &text)?, text))
    }

    fn text(&self, examples: bool) -> String {
        let mut out = String::new();
        self.head(&mut out);
        if !self.covered.is_empty() {
            out += "default:\n";
            for guest in self.covered {
                line(&mut out, 1, &format!("{}: deny", scalar(&guest_pattern(guest))));
            }
        }
        if !self.plan.services.is_empty() {
            out += "services:\n";
            for (name, service) in &self.plan.services {
                write_service(&mut out, name, service);
            }
        }
        if !self.plan.rules.is_empty() {
            out += "rules:\n";
            for rule in &self.plan.rules {
                write_rule(&mut out, rule, examples);
            }
        }
        self.tail(&mut out);
        out
    }

    fn head(&self, out: &mut String) {
        let (since, until) = (timestamp(self.span.0), timestamp(self.span.1));
        let flows: u64 = self
            .sorted
            .taken
            .iter()
            .map(|taken| taken.sample.totals.flows)
            .sum();
        let lines = [
            format!("The least that allows the {flows} flows ({} kinds) seen from {since} to {until}.", self.sorted.taken.len()),
            "What is done less often than that is not in it; what was wrong then is. Read it before it is applied.".to_owned(),
            "A default of deny also refuses frames that are neither IP nor ARP.".to_owned(),
        ];
        for text in lines {
            line(out, 0, &format!("# {text}"));
        }
        line(out, 0, &format!("policy: {}", scalar(&self.options.name)));
        let description = format!("Learned from what was seen from {since} to {until}.");
        line(out, 0, &format!("description: {}", scalar(&description)));
    }

    fn tail(&self, out: &mut String) {
        let opened = self.opened.iter().map(|sample| told(&sample.past(), None));
        listed(
            out,
            "Was refused, and passes by this all the same, since no rule can tell it apart:",
            opened.collect(),
        );
        let refused = by_flows(self.sorted.refused.clone());
        let refused = refused.iter().map(|sample| {
            let by = format!("by {}", sample.name.rule);
            told(&sample.past(), Some(&by))
        });
        listed(out, "Was refused, and stays so:", refused.collect());
        let mut left: Vec<_> = self.sorted.left_out.iter().collect();
        left.sort_by_key(|(sample, _)| std::cmp::Reverse(sample.totals.flows));
        let left = left.iter().map(|(sample, why)| told(&sample.past(), Some(why)));
        listed(out, "Passed, and is not allowed by this:", left.collect());
        if !self.sorted.assumed.is_empty() {
            let kinds = self.sorted.assumed.len();
            let text = format!(
                "# {kinds} kinds of flow had an end whose program was not known yet: it is taken to be the one that was seen to do the same."
            );
            line(out, 0, &text);
        }
    }
}

fn listed(out: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        return;
    }
    line(out, 0, &format!("# {title}"));
    for text in lines.iter().take(SHOWN) {
        line(out, 0, &format!("#   {text}"));
    }
    if let Some(more) = lines.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        line(out, 0, &format!("#   and {more} kinds more"));
    }
}

fn told(flow: &PastFlow, besides: Option<&str>) -> String {
    let name = &flow.name;
    let port = match name.port {
        Some(0) => name.protocol.clone(),
        Some(port) => format!("{}/{port}", name.protocol),
        None => format!("{}/many", name.protocol),
    };
    let mut text = format!(
        "{} -> {} {}: {} flows, last {}",
        comment(&name.from.label()),
        comment(&name.to.label()),
        comment(&port),
        flow.totals.flows,
        timestamp(flow.totals.last)
    );
    if let Some(besides) = besides {
        text += &format!("; {}", comment(besides));
    }
    text
}

fn write_service(out: &mut String, name: &str, service: &Service<'_>) {
    let mut fields = vec![("vm", texts(&service.vms))];
    if let Some(program) = &service.who {
        fields.extend(program.exe.map(|exe| ("exe", vec![scalar(&path(exe))])));
        if !program.uids.is_empty() {
            fields.push(("uid", uids(&program.uids)));
        }
        match program.container {
            Container::Either => {}
            Container::Outside => fields.push(("container", vec!["none".to_owned()])),
            Container::Inside => fields.push(("container", vec!["\"**\"".to_owned()])),
        }
    }
    if let Some((protocol, ports)) = &service.listens {
        fields.extend(listens(*protocol, ports, "port"));
    }
    if fields.iter().all(|(_, values)| values.len() <= LINE) {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, values)| format!("{name}: {}", list(values)))
            .collect();
        line(out, 1, &format!("{}: {{ {} }}", scalar(name), fields.join(", ")));
        return;
    }
    line(out, 1, &format!("{}:", scalar(name)));
    for (field, values) in fields {
        write_field(out, 2, field, &values);
    }
}

fn write_rule(out: &mut String, rule: &Named, examples: bool) {
    let totals = &rule.totals;
    let (first, last) = (timestamp(totals.first), timestamp(totals.last));
    let mut counts = format!("{} flows, first {first}, last {last}", totals.flows);
    if rule.pairs > 1 {
        counts += &format!("; {} of {} pairs were seen", rule.pairs_seen, rule.pairs);
    }
    line(out, 1, &format!("# {counts}"));
    if examples {
        for text in rule.generalised.iter().chain(&rule.examples) {
            line(out, 1, &format!("# {}", comment(text)));
        }
    }
    let mut fields = vec![("from", peers(&rule.from)), ("to", peers(&rule.to))];
    if let Some((protocol, ports)) = &rule.listens {
        fields.extend(listens(*protocol, ports, "ports"));
    }
    fields.push(("action", vec!["allow".to_owned()]));
    let is_short =
        |values: &Vec<String>| values.len() <= LINE && values.iter().all(|value| value.len() < 100);
    if fields.iter().all(|(_, values)| is_short(values)) {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, values)| format!("{name}: {}", list(values)))
            .collect();
        line(
            out,
            1,
            &format!("- {{ name: {}, {} }}", scalar(&rule.name), fields.join(", ")),
        );
        return;
    }
    line(out, 1, &format!("- name: {}", scalar(&rule.name)));
    for (field, values) in fields {
        write_field(out, 2, field, &values);
    }
}

fn write_field(out: &mut String, depth: usize, field: &str, values: &[String]) {
    if values.len() <= LINE {
        line(out, depth, &format!("{field}: {}", list(values)));
        return;
    }
    line(out, depth, &format!("{field}:"));
    for value in values {
        line(out, depth, &format!("- {value}"));
    }
}

fn listens(protocol: Protocol, ports: &[PortRange], field: &'static str) -> Vec<(&'static str, Vec<String>)> {
    let mut fields = Vec::new();
    if !ports.is_empty() {
        fields.push((field, ports.iter().map(ToString::to_string).collect()));
    }
    fields.push(("protocol", vec![protocol.to_string()]));
    fields
}

fn peers(peers: &[Peer]) -> Vec<String> {
    let one = |peer: &Peer| match peer {
        Peer::Service(name) => scalar(name),
        Peer::Addresses(blocks) => {
            let blocks: Vec<String> = blocks.iter().map(|block| quoted(&block.to_string())).collect();
            format!("{{ address: {} }}", list(&blocks))
        }
    };
    peers.iter().map(one).collect()
}

/// Users, those that follow one another as a range.
fn uids(uids: &[u32]) -> Vec<String> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for uid in uids {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*uid) => *last = *uid,
            _ => runs.push((*uid, *uid)),
        }
    }
    let text = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    match (runs.first(), runs.last()) {
        // A list has no room for them.
        (Some((first, _)), Some((_, last))) if runs.len() > policy::document::MAX_LIST => {
            vec![format!("{first}-{last}")]
        }
        _ => runs.iter().map(text).collect(),
    }
}

fn texts(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| scalar(text)).collect()
}

/// An address: colons would be those of a mapping.
fn quoted(text: &str) -> String {
    match text.contains(':') {
        true => format!("\"{text}\""),
        false => text.to_owned(),
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{:width$}{text}", "", width = depth * 2);
}
