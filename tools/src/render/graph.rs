// SPDX-License-Identifier: GPL-3.0-only
//! Data flow in DOT, the language of Graphviz (graphviz.org/doc/info/lang.html).

use policyd_api::{Graph, GraphEdge, GraphNode};

use super::plain;

/// `xmesh graph`.
pub fn dot(graph: &Graph) -> String {
    let mut out = format!("digraph {} {{\n    rankdir=LR;\n", quoted(&graph.domain));
    for node in &graph.nodes {
        let shape = if node.pid.is_some() { "box" } else { "ellipse" };
        out.push_str(&format!(
            "    {} [shape={shape}, label={}];\n",
            quoted(&node.id),
            quoted(&title(node))
        ));
    }
    for edge in &graph.edges {
        // By a pipe data flows one way; an arrow elsewhere tells who opened it.
        out.push_str(&format!(
            "    {} -> {} [label={}];\n",
            quoted(&edge.from),
            quoted(&edge.to),
            quoted(&label(edge))
        ));
    }
    out.push_str("}\n");
    out
}

/// `domain(pid exe)`, or the address.
fn title(node: &GraphNode) -> String {
    let known = node.exe.as_deref().or(node.comm.as_deref()).unwrap_or("?");
    match (&node.domain, node.pid, node.address) {
        (Some(domain), Some(pid), _) => format!("{domain}({pid} {known})"),
        (Some(domain), None, _) => domain.clone(),
        (None, _, Some(address)) => address.to_string(),
        (None, _, None) => node.id.clone(),
    }
}

fn label(edge: &GraphEdge) -> String {
    let mut label = edge.via.clone();
    if let Some(name) = &edge.name {
        label.push_str(&format!(" {name}"));
    }
    if edge.count > 1 {
        label.push_str(&format!(" ×{}", edge.count));
    }
    if let (Some(there), Some(back)) = (edge.bytes, edge.bytes_back) {
        label.push_str(&format!(", {there} B there, {back} B back"));
    }
    label
}

/// A string of DOT. What a guest wrote must not end it, nor begin one of DOT's escapes.
fn quoted(text: &str) -> String {
    let escaped = plain(text).replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, pid: Option<u32>, exe: Option<&str>) -> GraphNode {
        GraphNode {
            id: id.into(),
            domain: pid.map(|_| "web1".into()),
            pid,
            comm: Some("x".into()),
            exe: exe.map(str::to_owned),
            address: pid.is_none().then(|| id.parse().unwrap()),
        }
    }

    fn graph(exe: &str) -> Graph {
        Graph {
            domain: "web1".into(),
            nodes: vec![
                node("10.0.0.2", None, None),
                node("web1/7", Some(7), Some(exe)),
                node("web1/8", Some(8), None),
            ],
            edges: vec![
                GraphEdge {
                    from: "web1/7".into(),
                    to: "10.0.0.2".into(),
                    via: "tcp".into(),
                    name: Some("10.0.0.2:80".into()),
                    count: 2,
                    bytes: Some(150),
                    bytes_back: Some(900),
                },
                GraphEdge {
                    from: "web1/7".into(),
                    to: "web1/8".into(),
                    via: "pipe".into(),
                    name: None,
                    count: 1,
                    bytes: None,
                    bytes_back: None,
                },
            ],
        }
    }

    #[test]
    fn a_graph_in_dot() {
        assert_eq!(
            dot(&graph("/usr/bin/curl")),
            "digraph \"web1\" {\n    rankdir=LR;\n\
             \x20   \"10.0.0.2\" [shape=ellipse, label=\"10.0.0.2\"];\n\
             \x20   \"web1/7\" [shape=box, label=\"web1(7 /usr/bin/curl)\"];\n\
             \x20   \"web1/8\" [shape=box, label=\"web1(8 x)\"];\n\
             \x20   \"web1/7\" -> \"10.0.0.2\" [label=\"tcp 10.0.0.2:80 ×2, 150 B there, 900 B back\"];\n\
             \x20   \"web1/7\" -> \"web1/8\" [label=\"pipe\"];\n}\n"
        );
    }

    /// Strings of one statement, by DOT's own rule: a quote ends one unless a backslash is before it.
    fn strings(line: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut chars = line.chars();
        while chars.by_ref().any(|c| c == '"') {
            let mut text = String::new();
            loop {
                match chars.next().expect("a string ends on its line") {
                    '"' => break,
                    '\\' => text.push(chars.next().expect("an escape is whole")),
                    c => text.push(c),
                }
            }
            found.push(text);
        }
        found
    }

    #[test]
    fn a_name_from_a_guest_cannot_leave_its_string() {
        let hostile = "/tmp/\"];\n} \x1b[2J\\";
        let text = dot(&graph(hostile));
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(!text.contains('\x1b'));
        let line = text.lines().find(|line| line.contains("/tmp")).unwrap();
        let found = strings(line);
        assert_eq!(found.len(), 2, "{line}");
        assert!(found[1].starts_with("web1(7 /tmp/\"];"), "{found:?}");
    }
}
