// SPDX-License-Identifier: GPL-3.0-only
// Which pairs are slow, and which side makes them so; and routes with their backends.

import { sources } from './api.js';
import { chip, el, refill } from './dom.js';
import { count, plain, share, time } from './format.js';
import { domainLink, trouble } from './parts.js';
import { table } from './table.js';
import { showPair } from './view-map.js';

const WHO = {
  client: 'who opens the connections',
  network: 'what is between the two',
  server: 'who answers',
  qos: 'a rate that policy gives',
};

export function findingsView() {
  const troubles = trouble('golden signals (/v1/signals)');
  const sum = el('p', { class: 'summary' });
  const list = table({
    caption: 'Pairs that are slow',
    visible: false,
    key: (f) => JSON.stringify([f.from.name, f.to.name, f.port, f.version, f.culprit]),
    empty: 'No pair is slow.',
    sort: 'factor',
    descending: true,
    columns: [
      {
        key: 'from',
        label: 'From',
        value: (f) => plain(f.from.name),
        cell: (f) =>
          el(
            'button',
            {
              type: 'button',
              class: 'link',
              'aria-label': `${plain(f.from.name)} to ${plain(f.to.name)} on the map`,
              on: { click: () => showPair(f.from, f.to) },
            },
            plain(f.from.name),
          ),
      },
      {
        key: 'to',
        label: 'To',
        value: (f) => `${plain(f.to.name)}${f.port ? `:${f.port}` : ''}${f.version ? ` (${plain(f.version)})` : ''}`,
      },
      {
        key: 'culprit',
        label: 'Slow by',
        value: (f) => f.culprit,
        cell: (f) => el('span', {}, chip('slow', f.culprit), ' ', el('span', { class: 'muted' }, WHO[f.culprit] ?? '')),
      },
      { key: 'factor', label: 'Times as slow', number: true, value: (f) => f.factor, cell: (f) => `×${f.factor.toFixed(1)}` },
      { key: 'evidence', label: 'What shows it', value: (f) => plain(f.evidence) },
    ],
  });
  let stop = () => {};
  return {
    title: 'Slow',
    element: el('div', { class: 'page' }, el('h1', { tabindex: '-1' }, 'What is slow'), sum, troubles.element, list.element),
    start() {
      stop = sources.signals.watch((source) => {
        troubles.show(source);
        if (!source.value) return;
        const { since, until, folded, findings } = source.value;
        sum.textContent = `${findings.length} of the pairs, from ${time(since)} to ${time(until)}${folded ? ` · ${count(folded)} kinds of flow are told as (others)` : ''}`;
        list.update(findings);
      });
    },
    stop: () => stop(),
  };
}

export function routesView() {
  const troubles = trouble('the list of routes');
  const body = el('div');
  let stop = () => {};
  let said = null;

  function show(routes) {
    const now = JSON.stringify(routes);
    if (now === said) return;
    said = now;
    refill(body, routes.length ? routes.map(route) : el('p', { class: 'note' }, 'The policy has no routes.'));
  }

  function route(r) {
    const backends = table({
      caption: `Backends of ${plain(r.name)}`,
      visible: false,
      key: (b) => `${b.address} ${b.role} ${b.version}`,
      empty: 'It has no backends.',
      columns: [
        { key: 'address', label: 'Backend', value: (b) => b.address },
        { key: 'domain', label: 'VM', value: (b) => b.domain ?? '', cell: (b) => (b.domain ? domainLink(b.domain) : 'outside') },
        { key: 'version', label: 'Version', value: (b) => plain(b.version ?? '–') },
        { key: 'role', label: 'Serves', value: (b) => b.role },
        { key: 'share', label: 'Share', number: true, value: (b) => b.share, cell: (b) => share(b.share) },
        {
          key: 'state',
          label: 'State',
          value: (b) => b.state,
          cell: (b) => chip({ up: 'ok', draining: 'warning', down: 'deny', gone: 'deny' }[b.state], b.state),
        },
        { key: 'why', label: 'Why', value: (b) => plain(b.why ?? '') },
        { key: 'flows', label: 'Flows', number: true, value: (b) => b.flows },
      ],
    });
    backends.update(r.backends);
    return el(
      'section',
      { 'aria-label': `Route ${plain(r.name)}` },
      el(
        'h2',
        {},
        plain(r.name),
        ' ',
        el('span', { class: 'muted' }, `${r.protocol} ${r.address}${r.affinity ? ', one backend for each client' : ''}`),
      ),
      backends.element,
    );
  }

  return {
    title: 'Routes',
    element: el('div', { class: 'page' }, el('h1', { tabindex: '-1' }, 'Routes'), troubles.element, body),
    start() {
      stop = sources.routes.watch((source) => {
        troubles.show(source);
        if (source.value) show(source.value);
      });
    },
    stop: () => stop(),
  };
}
