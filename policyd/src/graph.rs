// SPDX-License-Identifier: GPL-3.0-only
//! Data flow as a graph: what the guest's memory says about its processes, joined with what the vifs counted. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use policyd_api as api;
use vmi_xen::linux::{DataFlow, Process, Protocol, Via};

/// A flow at a vif, and who is at its other end as far as that is known.
pub struct Counted {
    /// The flow.
    pub flow: api::Flow,
    /// Domain of the other end, of this host.
    pub peer_domain: Option<String>,
    /// Process id and executable there.
    pub peer: Option<(u32, Option<String>)>,
}

/// A graph being put together: nodes by id, edges by what they join.
#[derive(Default)]
struct Builder {
    nodes: BTreeMap<String, api::GraphNode>,
    edges: BTreeMap<(String, String, String, String), api::GraphEdge>,
}

/// Builds the graph of one domain. Kernel threads and processes that are joined to nobody are left out.
pub fn build(domain: &str, processes: &[&Process], flow: &DataFlow, counted: &[Counted]) -> api::Graph {
    let mut builder = Builder::default();
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|p| (p.tgid, *p)).collect();
    for edge in &flow.edges {
        let ends = by_pid.get(&edge.from).zip(by_pid.get(&edge.to));
        let Some((from, to)) = ends.filter(|(from, to)| !from.kthread && !to.kthread) else {
            continue;
        };
        let from = builder.process(domain, from.tgid, Some(&from.comm), from.exe.as_deref());
        let to = builder.process(domain, to.tgid, Some(&to.comm), to.exe.as_deref());
        let (via, name) = words(&edge.via);
        builder.edge(from, to, via, name, None);
    }
    for Counted {
        flow,
        peer_domain,
        peer,
    } in counted
    {
        let here = match &flow.who {
            Some(api::Party {
                pid: Some(pid), exe, ..
            }) => {
                let comm = by_pid.get(pid).map(|p| p.comm.as_str());
                builder.process(domain, *pid, comm, exe.as_deref())
            }
            _ => builder.place(domain, None),
        };
        let there = match (peer_domain, peer) {
            (Some(domain), Some((pid, exe))) => builder.process(domain, *pid, None, exe.as_deref()),
            (Some(domain), None) => builder.place(domain, None),
            (None, _) => builder.place("", Some(flow.remote)),
        };
        // Bytes from the opener to the other end, then back.
        let (from, to, at, bytes) = match flow.outgoing {
            true => (here, there, flow.remote, (flow.bytes_out, flow.bytes_in)),
            false => (there, here, flow.local, (flow.bytes_in, flow.bytes_out)),
        };
        builder.edge(from, to, &flow.protocol, at.to_string(), Some(bytes));
    }
    // Connections whose packets no vif counted, as those of a guest whose vif is not covered.
    for outside in &flow.outside {
        let Some(remote) = outside.socket.remote else {
            continue;
        };
        let local = outside.socket.local;
        let known = |c: &Counted| (c.flow.local, c.flow.remote) == (local, remote);
        let Some(process) = by_pid.get(&outside.pid).filter(|_| !counted.iter().any(known)) else {
            continue;
        };
        let here = builder.process(domain, outside.pid, Some(&process.comm), process.exe.as_deref());
        let there = builder.place("", Some(remote));
        let (from, to, at) = match outside.outgoing {
            true => (here, there, remote),
            false => (there, here, local),
        };
        builder.edge(from, to, protocol(outside.socket.protocol), at.to_string(), None);
    }
    api::Graph {
        domain: domain.to_owned(),
        nodes: builder.nodes.into_values().collect(),
        edges: builder.edges.into_values().collect(),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn words(via: &Via) -> (&'static str, String) {
    match via {
        Via::Pipe(_) => ("pipe", String::new()),
        Via::Fifo(path) => ("fifo", path.clone()),
        Via::Unix(name) => ("unix", name.clone().unwrap_or_default()),
        Via::Inet {
            protocol: of, remote, ..
        } => (protocol(*of), remote.to_string()),
    }
}

impl Builder {
    /// The node of a process; what is known of it later is added.
    fn process(&mut self, domain: &str, pid: u32, comm: Option<&str>, exe: Option<&str>) -> String {
        let id = format!("{domain}/{pid}");
        let node = self.nodes.entry(id.clone()).or_insert_with(|| api::GraphNode {
            id: id.clone(),
            domain: Some(domain.to_owned()),
            pid: Some(pid),
            comm: None,
            exe: None,
            address: None,
        });
        node.comm = node.comm.take().or_else(|| comm.map(str::to_owned));
        node.exe = node.exe.take().or_else(|| exe.map(str::to_owned));
        id
    }

    /// The node of a domain whose process is not known, or of an address outside.
    fn place(&mut self, domain: &str, address: Option<SocketAddr>) -> String {
        let address = address.map(|at| at.ip());
        let id = address.map_or_else(|| domain.to_owned(), |ip| ip.to_string());
        self.nodes.entry(id.clone()).or_insert_with(|| api::GraphNode {
            id: id.clone(),
            domain: address.is_none().then(|| domain.to_owned()),
            pid: None,
            comm: None,
            exe: None,
            address,
        });
        id
    }

    /// An edge; several between the same ends by the same way are one.
    fn edge(&mut self, from: String, to: String, via: &str, name: String, bytes: Option<(u64, u64)>) {
        let key = (from.clone(), to.clone(), via.to_owned(), name.clone());
        let edge = self.edges.entry(key).or_insert_with(|| api::GraphEdge {
            from,
            to,
            via: via.to_owned(),
            name: Some(name).filter(|name| !name.is_empty()),
            count: 0,
            bytes: None,
            bytes_back: None,
        });
        edge.count += 1;
        if let Some((there, back)) = bytes {
            edge.bytes = Some(edge.bytes.unwrap_or(0).saturating_add(there));
            edge.bytes_back = Some(edge.bytes_back.unwrap_or(0).saturating_add(back));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmi_xen::linux::Edge;

    fn flow(local: &str, remote: &str, outgoing: bool, pid: Option<u32>, bytes: (u64, u64)) -> api::Flow {
        api::Flow {
            domain: "web1".into(),
            protocol: "tcp".into(),
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            outgoing,
            route: None,
            who: pid.map(|pid| api::Party {
                domain: Some("web1".into()),
                exe: Some("/usr/bin/curl".into()),
                pid: Some(pid),
                uid: Some(0),
                services: Vec::new(),
                id: String::new(),
            }),
            decision: api::Decision {
                verdict: api::Verdict::Allow,
                rule: "no rule".into(),
                generation: 0,
            },
            packets_out: 1,
            bytes_out: bytes.0,
            packets_in: 1,
            bytes_in: bytes.1,
            age_ms: 0,
            idle_ms: 0,
            timing: Default::default(),
            state: "established".into(),
        }
    }

    #[test]
    fn flows_between_the_same_ends_are_one_edge_with_all_their_bytes() {
        let counted: Vec<Counted> = ["10.0.0.1:5000", "10.0.0.1:5001"]
            .iter()
            .map(|local| Counted {
                flow: flow(local, "10.0.0.2:80", true, Some(7), (100, 900)),
                peer_domain: Some("db1".into()),
                peer: Some((88, Some("/usr/sbin/nginx".into()))),
            })
            .collect();
        let graph = build("web1", &[], &DataFlow::default(), &counted);
        let ids: Vec<&str> = graph.nodes.iter().map(|n| n.id.as_str()).collect();
        assert_eq!(ids, ["db1/88", "web1/7"]);
        let [edge] = graph.edges.as_slice() else {
            panic!("{:?}", graph.edges)
        };
        assert_eq!((edge.from.as_str(), edge.to.as_str()), ("web1/7", "db1/88"));
        assert_eq!(
            (edge.count, edge.bytes, edge.bytes_back),
            (2, Some(200), Some(1800))
        );
        assert_eq!(edge.name.as_deref(), Some("10.0.0.2:80"));
    }

    #[test]
    fn who_opened_a_flow_is_where_its_edge_begins() {
        let counted = [Counted {
            flow: flow("10.0.0.1:22", "192.0.2.9:5000", false, None, (100, 900)),
            peer_domain: None,
            peer: None,
        }];
        let graph = build("web1", &[], &DataFlow::default(), &counted);
        let edge = &graph.edges[0];
        assert_eq!((edge.from.as_str(), edge.to.as_str()), ("192.0.2.9", "web1"));
        assert_eq!((edge.bytes, edge.bytes_back), (Some(900), Some(100)));
    }

    #[test]
    fn an_edge_to_a_process_that_is_gone_is_left_out() {
        let flow = DataFlow {
            edges: vec![Edge {
                from: 1,
                to: 2,
                via: Via::Pipe(5),
            }],
            outside: Vec::new(),
        };
        assert!(build("web1", &[], &flow, &[]).edges.is_empty());
    }
}
