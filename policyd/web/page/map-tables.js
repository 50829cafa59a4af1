// SPDX-License-Identifier: GPL-3.0-only
// What the map shows, as tables; and what its lines mean.

import { chip, el } from './dom.js';
import { count, micros, plain, rate, share } from './format.js';
import { VERDICTS } from './model.js';
import { table } from './table.js';

/** What the lines of the map mean. */
export function legendOf() {
  const line = (kind, text) => el('li', {}, el('span', { class: `line ${kind}`, 'aria-hidden': 'true' }), text);
  return el(
    'ul',
    { class: 'legend', 'aria-label': 'What lines mean' },
    line('allow', 'allowed'),
    line('part', 'some denied'),
    line('deny', 'denied'),
    line('idle', 'open, nothing new'),
    line('slow', 'slow'),
  );
}

/** The nodes; `choose` gets the id of one. */
export function nodeTable(choose) {
  const kinds = {
    service: 'service',
    domain: 'VM without a service',
    world: 'outside',
    others: 'too many to tell apart',
    vm: 'VM',
  };
  return table({
    caption: 'Services',
    key: (row) => row.node.id,
    empty: 'Nothing is to be shown.',
    sort: 'name',
    columns: [
      {
        key: 'name',
        label: 'Name',
        value: (r) => r.node.name,
        cell: (r) => el('button', { type: 'button', class: 'link', on: { click: () => choose(r.node.id) } }, plain(r.node.name)),
      },
      { key: 'kind', label: 'Kind', value: (r) => kinds[r.node.kind] },
      { key: 'vm', label: 'VM', value: (r) => plain(r.node.homes.join(', ')) },
      { key: 'into', label: 'Calls in', number: true, value: (r) => r.into, cell: (r) => rate(r.into) },
      { key: 'out', label: 'Calls out', number: true, value: (r) => r.out, cell: (r) => rate(r.out) },
      { key: 'callers', label: 'Callers', number: true, value: (r) => r.callers },
      { key: 'callees', label: 'Called', number: true, value: (r) => r.callees },
      { key: 'denied', label: 'Denied', number: true, value: (r) => r.denied, cell: (r) => count(r.denied) },
    ],
  });
}

/** The connections; `choose` gets the id of one. */
export function edgeTable(choose) {
  return table({
    caption: 'Connections between services',
    key: (row) => row.edge.id,
    empty: 'No connection is to be shown.',
    sort: 'rate',
    descending: true,
    columns: [
      {
        key: 'from',
        label: 'From',
        value: (r) => plain(r.from.name),
        cell: (r) =>
          el(
            'button',
            {
              type: 'button',
              class: 'link',
              'aria-label': `Details of ${plain(r.from.name)} to ${plain(r.to.name)}`,
              on: { click: () => choose(r.edge.id) },
            },
            plain(r.from.name),
          ),
      },
      { key: 'to', label: 'To', value: (r) => plain(r.to.name) },
      {
        key: 'verdict',
        label: 'Verdict',
        value: (r) => VERDICTS[r.edge.verdict],
        cell: (r) => chip(r.edge.verdict === 'idle' ? 'off' : r.edge.verdict, VERDICTS[r.edge.verdict]),
      },
      { key: 'rate', label: 'Rate', number: true, value: (r) => r.edge.rate, cell: (r) => rate(r.edge.rate) },
      {
        key: 'denied',
        label: 'Denied',
        number: true,
        value: (r) => r.edge.share,
        cell: (r) => (r.edge.denied ? share(r.edge.share) : '–'),
      },
      {
        key: 'failed',
        label: 'Failed',
        number: true,
        value: (r) => r.edge.failed,
        cell: (r) => (r.edge.failed ? count(r.edge.failed) : '–'),
      },
      { key: 'p99', label: 'p99', number: true, value: (r) => r.edge.p99 ?? -1, cell: (r) => micros(r.edge.p99) },
      { key: 'open', label: 'Open', number: true, value: (r) => r.edge.open, cell: (r) => count(r.edge.open) },
      {
        key: 'slow',
        label: 'Slow by',
        value: (r) => (r.edge.slow ? `${r.edge.slow.culprit} ×${r.edge.slow.factor.toFixed(1)}` : ''),
      },
    ],
  });
}
