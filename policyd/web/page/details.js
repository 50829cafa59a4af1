// SPDX-License-Identifier: GPL-3.0-only
// What is known of the service or connection that is selected on the map.

import { get, sources } from './api.js';
import { chip, el, facts, note, refill } from './dom.js';
import { command, micros, plain, rate } from './format.js';
import { VERDICTS, boxId } from './model.js';
import { edgeParts, pastParts } from './pair.js';
import { domainLink } from './parts.js';
import { table } from './table.js';

/** Processes that are listed here; the view of the VM has all. */
const SOME = 12;

/**
 * @param {{ close: () => void, choose: (what: { node?: string, edge?: string }) => void, only: (vm: string) => void }} acts
 */
export function details({ close, choose, only }) {
  const heading = el('h2', { tabindex: '-1' });
  const body = el('div', { class: 'details-body' });
  const shut = el('button', { type: 'button', class: 'quiet', 'aria-label': 'Close the details', on: { click: close } }, '✕');
  const element = el(
    'aside',
    { class: 'details', 'aria-label': 'Details', hidden: true },
    el('div', { class: 'details-head' }, heading, shut),
    body,
  );
  element.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') close();
  });
  let key = null;
  let parts = null;

  function update({ graph, chosen, past }) {
    const node = chosen?.node && (graph.nodes.get(chosen.node) ?? boxOf(graph, chosen.node));
    const edge = chosen?.edge && graph.edges.get(chosen.edge);
    const is = node ? `node ${node.id} ${past}` : edge ? `edge ${edge.id} ${past}` : null;
    element.hidden = !is;
    if (!is) {
      key = null;
      parts?.stop?.();
      parts = null;
      return;
    }
    if (is !== key) {
      parts?.stop?.();
      parts = node ? nodeParts(choose, only) : past ? pastParts() : edgeParts();
      refill(body, parts.element);
      key = is;
    }
    heading.textContent = node
      ? plain(node.name)
      : `${plain(graph.nodes.get(edge.from).name)} → ${plain(graph.nodes.get(edge.to).name)}`;
    parts.update(graph, node || edge);
  }

  return {
    element,
    update,
    focus: () => heading.focus(),
    stop: () => parts?.stop?.(),
  };
}

/** The VM whose frame was chosen. */
function boxOf(graph, id) {
  const own = [...graph.nodes.values()].filter((node) => node.home && boxId(node.home) === id);
  if (!own.length) return null;
  const name = own[0].home;
  return {
    id,
    ids: own.map((node) => node.id),
    name,
    kind: 'vm',
    homes: [name],
    members: own.filter((node) => node.kind === 'service').map((node) => node.name),
  };
}

const KINDS = {
  service: 'a service of policy',
  domain: 'a VM: its processes that are of no service',
  world: 'outside of this host',
  others: 'ends that are too many to be told apart',
  vm: 'a VM',
};

function nodeParts(choose, only) {
  const about = el('div');
  const into = neighbours('Called by', (edge) => edge.from, choose);
  const out = neighbours('Calls', (edge) => edge.to, choose);
  const threats = el('div');
  const inVm = el('p');
  const inside = el('div');
  let asked = null;

  /** Processes of a VM are read from the guest: once, when it is looked at, and not again and again. */
  async function processes(node) {
    if (node.homes.length !== 1 || asked === node.homes[0]) return;
    [asked] = node.homes;
    refill(inside, el('h3', {}, 'Processes'), note('reading the guest …'));
    try {
      const all = await get(`/v1/domains/${encodeURIComponent(asked)}/processes?limit=1000`);
      const own = all.filter((p) => p.exe).sort((a, b) => a.pid - b.pid);
      refill(
        inside,
        el('h3', {}, `Processes in ${plain(asked)}`),
        el(
          'ul',
          { class: 'plain' },
          own.slice(0, SOME).map((p) => el('li', {}, el('span', { class: 'number' }, p.pid), ' ', el('code', {}, command(p)))),
        ),
        el('p', {}, domainLink(asked, `All ${own.length} processes and their flows`)),
      );
    } catch (error) {
      refill(inside, el('h3', {}, 'Processes'), note(plain(error.message), 'trouble'));
    }
  }

  return {
    element: el('div', {}, about, inVm, threats, into.element, out.element, inside),
    update(graph, node) {
      const edges = [...graph.edges.values()];
      const own = new Set(node.ids ?? [node.id]);
      const [callers, callees] = [edges.filter((e) => own.has(e.to)), edges.filter((e) => own.has(e.from))];
      refill(
        about,
        facts(
          [
            ['Is', KINDS[node.kind]],
            [
              'In',
              node.homes.length
                ? node.homes.map((home, index) => [index ? ', ' : '', domainLink(home)])
                : node.kind === 'service'
                  ? 'no VM that has a flow now'
                  : null,
            ],
            ['Services', node.members?.length ? node.members.map(plain).join(', ') : null],
            ['Calls in', rate(callers.reduce((n, e) => n + e.rate, 0))],
            ['Calls out', rate(callees.reduce((n, e) => n + e.rate, 0))],
          ].map(([term, value]) => [term, Array.isArray(value) ? el('span', {}, value) : value]),
        ),
      );
      // Of the frame its services are seen already.
      const within = node.kind === 'vm' && node.members.length > 0 && !node.ids;
      if (within && !inVm.firstChild)
        refill(
          inVm,
          el('button', { type: 'button', class: 'quiet', on: { click: () => only(node.name) } }, 'Its services on the map'),
        );
      into.update(graph, callers);
      out.update(graph, callees);
      const found = (sources.threats.value?.threats ?? []).filter((t) => node.homes.includes(t.domain));
      refill(
        threats,
        found.length
          ? [
              el('h3', {}, 'Threats'),
              el(
                'ul',
                { class: 'plain' },
                found.map((t) => el('li', {}, chip(t.severity, t.severity), ' ', el('a', { href: '#/threats' }, plain(t.title)))),
              ),
            ]
          : [],
      );
      void processes(node);
    },
  };
}

function neighbours(caption, other, choose) {
  const list = table({
    caption,
    key: (row) => row.edge.id,
    empty: caption === 'Calls' ? 'It calls nobody.' : 'Nobody calls it.',
    sort: 'rate',
    descending: true,
    columns: [
      {
        key: 'name',
        label: 'Name',
        value: (r) => r.name,
        cell: (r) => el('button', { type: 'button', class: 'link', on: { click: () => choose({ edge: r.edge.id }) } }, r.name),
      },
      { key: 'rate', label: 'Rate', number: true, value: (r) => r.edge.rate, cell: (r) => rate(r.edge.rate) },
      { key: 'p99', label: 'p99', number: true, value: (r) => r.edge.p99 ?? -1, cell: (r) => micros(r.edge.p99) },
      {
        key: 'verdict',
        label: 'Verdict',
        value: (r) => VERDICTS[r.edge.verdict],
        cell: (r) => chip(r.edge.verdict === 'idle' ? 'off' : r.edge.verdict, VERDICTS[r.edge.verdict]),
      },
    ],
  });
  return {
    element: list.element,
    update: (graph, edges) => list.update(edges.map((edge) => ({ edge, name: plain(graph.nodes.get(other(edge))?.name ?? '') }))),
  };
}
