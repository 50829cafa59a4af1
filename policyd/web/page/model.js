// SPDX-License-Identifier: GPL-3.0-only
// What the map shows, out of what the API says: nodes, who calls whom, and how that fares. Pure.

/**
 * @typedef {{ id: string, name: string, kind: 'service' | 'domain' | 'world' | 'others' | 'vm', home: string | null, homes: string[],
 *   label: string, members?: string[] }} MapNode
 * @typedef {{ id: string, from: string, to: string, connections: number, denied: number, failed: number, bytes: number, open: number,
 *   rate: number, share: number, verdict: 'allow' | 'part' | 'deny' | 'idle', p99: number | null, slow: any | null, pairs: any[],
 *   past: any[] }} MapEdge
 * @typedef {{ nodes: Map<string, MapNode>, edges: Map<string, MapEdge>, seconds: number, since: number, until: number }} MapGraph
 */

const WORLD = 'world';
const OTHERS = '(others)';

/** @returns {MapGraph} */
export function empty(since = 0, until = 0) {
  return { nodes: new Map(), edges: new Map(), seconds: Math.max(1, until - since), since, until };
}

/** In which VMs each service is seen, by name of the service. */
export function homesOf(flows, pastFlows = []) {
  const homes = new Map();
  const add = (service, domain) => {
    if (!domain) return;
    if (!homes.has(service)) homes.set(service, new Set());
    homes.get(service).add(domain);
  };
  for (const flow of flows ?? []) for (const service of flow.who?.services ?? []) add(service, flow.who.domain);
  for (const flow of pastFlows) {
    for (const end of [flow.from, flow.to]) for (const service of end.services ?? []) add(service, end.domain);
  }
  return homes;
}

function nodeOf(graph, party, homes) {
  const id = `${party.kind}:${party.name}`;
  let node = graph.nodes.get(id);
  if (!node) {
    const all =
      party.kind === 'service' ? [...(homes.get(party.name) ?? [])].sort() : party.kind === 'domain' ? [party.name] : [];
    node = { id, name: party.name, kind: party.kind, homes: all, home: all.length === 1 ? all[0] : null, label: party.name };
    if (party.kind === 'service') node.label = party.name.slice(party.name.indexOf('/') + 1);
    graph.nodes.set(id, node);
  }
  return node;
}

function edgeOf(graph, from, to) {
  const id = `${from.id} → ${to.id}`;
  let edge = graph.edges.get(id);
  if (!edge) {
    edge = {
      id,
      from: from.id,
      to: to.id,
      connections: 0,
      denied: 0,
      failed: 0,
      bytes: 0,
      open: 0,
      rate: 0,
      share: 0,
      verdict: 'idle',
      p99: null,
      slow: null,
      pairs: [],
      past: [],
    };
    graph.edges.set(id, edge);
  }
  return edge;
}

function settle(graph) {
  for (const edge of graph.edges.values()) {
    edge.rate = edge.connections / graph.seconds;
    edge.share = edge.connections ? edge.denied / edge.connections : 0;
    edge.verdict =
      edge.connections === 0 ? 'idle' : edge.denied === 0 ? 'allow' : edge.denied >= edge.connections ? 'deny' : 'part';
  }
  return graph;
}

/** The time that tells most of how a pair fares, µs, and what it is. */
export function latency(window) {
  for (const [what, values] of [
    ['first byte', window.first_byte_us],
    ['set-up', window.setup_us],
    ['round trip', window.server_rtt_us],
  ]) {
    if (values?.count > 0) return { what, p50: values.p50, p99: values.p99 };
  }
  return null;
}

const samePair = (finding, pair) =>
  finding.from.name === pair.from.name &&
  finding.to.name === pair.to.name &&
  (finding.port ?? null) === (pair.port ?? null) &&
  (finding.version ?? null) === (pair.version ?? null);

/** The map of now. @returns {MapGraph} */
export function fromSignals(signals, homes, domains = []) {
  const graph = empty(signals.since, signals.until);
  for (const pair of signals.pairs) {
    const from = nodeOf(graph, pair.from, homes);
    const to = nodeOf(graph, pair.to, homes);
    const edge = edgeOf(graph, from, to);
    const w = pair.window;
    edge.connections += w.connections;
    edge.denied += w.denied;
    edge.failed += w.failed;
    edge.bytes += w.bytes_out + w.bytes_in;
    edge.open += pair.open;
    const time = latency(w);
    if (time) edge.p99 = Math.max(edge.p99 ?? 0, time.p99);
    const found = signals.findings.find((finding) => samePair(finding, pair));
    if (found && (!edge.slow || found.factor > edge.slow.factor)) edge.slow = found;
    edge.pairs.push(pair);
  }
  quiet(graph, domains, homes);
  return settle(graph);
}

/** Domains that say nothing are on the map, too. */
function quiet(graph, domains, homes) {
  const seen = new Set([...graph.nodes.values()].flatMap((node) => node.homes));
  for (const domain of domains)
    if (!seen.has(domain.name) && domain.mode !== 'off') nodeOf(graph, { kind: 'domain', name: domain.name }, homes);
}

function partyOf(end) {
  if (end.services?.length) return { kind: 'service', name: end.services[0] };
  if (end.domain) return { kind: 'domain', name: end.domain };
  return end.address ? { kind: 'world', name: WORLD } : { kind: 'others', name: OTHERS };
}

/** The map of some time of the past. `domains`: those that are to be on it anyhow. @returns {MapGraph} */
export function fromPast(past, homes, domains = []) {
  const graph = empty(past.since, past.until);
  for (const flow of past.flows) {
    const edge = edgeOf(graph, nodeOf(graph, partyOf(flow.from), homes), nodeOf(graph, partyOf(flow.to), homes));
    edge.connections += flow.flows;
    if (flow.verdict === 'deny') edge.denied += flow.flows;
    edge.bytes += flow.bytes_out + flow.bytes_in;
    edge.past.push(flow);
  }
  quiet(graph, domains, homes);
  return settle(graph);
}

/** The same with each VM as one node. @returns {MapGraph} */
export function byVm(graph) {
  const whole = { ...graph, nodes: new Map(), edges: new Map() };
  const stands = new Map();
  for (const node of graph.nodes.values()) {
    if (!node.home) {
      whole.nodes.set(node.id, node);
      stands.set(node.id, node);
      continue;
    }
    const id = `vm:${node.home}`;
    let vm = whole.nodes.get(id);
    if (!vm) {
      vm = { id, name: node.home, kind: 'vm', home: null, homes: [node.home], label: node.home, members: [] };
      whole.nodes.set(id, vm);
    }
    if (node.kind === 'service') vm.members.push(node.name);
    stands.set(node.id, vm);
  }
  for (const edge of graph.edges.values()) {
    const sum = edgeOf(whole, stands.get(edge.from), stands.get(edge.to));
    for (const name of ['connections', 'denied', 'failed', 'bytes', 'open']) sum[name] += edge[name];
    if (edge.p99 !== null) sum.p99 = Math.max(sum.p99 ?? 0, edge.p99);
    if (edge.slow && (!sum.slow || edge.slow.factor > sum.slow.factor)) sum.slow = edge.slow;
    sum.pairs.push(...edge.pairs);
    sum.past.push(...edge.past);
  }
  return settle(whole);
}

/**
 * What is wanted of it.
 * @param {MapGraph} graph
 * @param {{ text?: string, only?: 'all' | 'denied' | 'slow' | 'busy' }} wanted
 * @returns {MapGraph}
 */
export function filtered(graph, { text = '', only = 'all' }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length && only === 'all') return graph;
  const about = (node) => [node.name, ...node.homes, ...(node.members ?? [])].join(' ').toLowerCase();
  const hit = new Set(
    [...graph.nodes.values()].filter((node) => words.every((word) => about(node).includes(word))).map((node) => node.id),
  );
  const keeps = { all: () => true, denied: (e) => e.denied > 0, slow: (e) => e.slow !== null, busy: (e) => e.connections > 0 }[
    only
  ];
  const edges = new Map([...graph.edges].filter(([, e]) => keeps(e) && (hit.has(e.from) || hit.has(e.to))));
  const near = new Set(words.length && only === 'all' ? hit : []);
  for (const edge of edges.values()) near.add(edge.from).add(edge.to);
  return { ...graph, edges, nodes: new Map([...graph.nodes].filter(([id]) => near.has(id))) };
}

/** What the frame of a VM is called on the map. */
export const boxId = (home) => `box:${home}`;

/** What a verdict is called. */
export const VERDICTS = { allow: 'allowed', part: 'some denied', deny: 'denied', idle: 'open, nothing new' };

/** The flows at vifs that are of a pair of nodes. */
export function flowsOf(flows, edge, nodes) {
  const end = (node) => (who, domain) => {
    if (!node) return false;
    if (node.kind === 'service') return who?.services?.includes(node.name) ?? false;
    if (node.kind === 'vm' || node.kind === 'domain') return domain === node.name;
    return node.kind === 'world';
  };
  const from = end(nodes.get(edge.from));
  const to = end(nodes.get(edge.to));
  return flows.filter((flow) => (flow.outgoing ? from : to)(flow.who, flow.domain));
}
