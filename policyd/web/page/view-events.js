// SPDX-License-Identifier: GPL-3.0-only
// What happened lately, but for what happens all the time.

import { Source, lines } from './api.js';
import { chip, el } from './dom.js';
import { command, plain, timeOfNs } from './format.js';
import { domainLink, trouble } from './parts.js';
import { table } from './table.js';

/** Kinds that can be chosen. `connect` and the like come by the thousand; they are in the history of flows. */
const KINDS = {
  'refused,threat,policy,backend,sight,domain,integrity,hidden,store,unowned,lost': 'what is of note',
  refused: 'refused packets',
  connect: 'connections opened',
  exec: 'programs started',
  'listen,bind,close': 'servers',
  threat: 'threats',
  policy: 'changes of policy',
};
const KEPT = 500;

export function eventsView() {
  const troubles = trouble('events');
  let kinds = Object.keys(KINDS)[0];
  let source = null;
  let stop = () => {};
  const list = table({
    caption: 'Events',
    visible: false,
    key: (e) => String(e.seq),
    empty: 'Nothing of that kind has happened lately.',
    sort: 'time',
    descending: true,
    columns: [
      { key: 'time', label: 'When', value: (e) => e.seq, cell: (e) => timeOfNs(e.time_ns) },
      { key: 'domain', label: 'VM', value: (e) => e.domain ?? '', cell: (e) => (e.domain ? domainLink(e.domain) : '–') },
      { key: 'kind', label: 'Kind', value: (e) => e.kind, cell: (e) => chip(signOf(e), e.kind) },
      { key: 'what', label: 'What', value: sentence },
    ],
  });
  const choice = el(
    'select',
    {
      on: {
        change: () => {
          kinds = choice.value;
          begin();
        },
      },
    },
    Object.entries(KINDS).map(([value, text]) => el('option', { value }, text)),
  );

  function begin() {
    end();
    let seen = [];
    let after = 0;
    source = new Source(async () => {
      const news = await lines(`/v1/events?kind=${encodeURIComponent(kinds)}&after=${after}`);
      after = Math.max(after, ...news.map((e) => e.seq));
      seen = [...seen, ...news].slice(-KEPT);
      return seen;
    }, 5);
    list.update([]);
    stop = source.watch(() => {
      troubles.show(source);
      if (source.value) list.update(source.value);
    });
  }

  function end() {
    stop();
    source?.end();
  }

  return {
    title: 'Events',
    element: el(
      'div',
      { class: 'page' },
      el('h1', { tabindex: '-1' }, 'Events'),
      el('div', { class: 'toolbar' }, el('label', { class: 'inline' }, 'Show ', choice)),
      troubles.element,
      list.element,
    ),
    start: begin,
    stop: end,
  };
}

function signOf(event) {
  if (event.kind === 'threat') return event.threat.severity;
  if (event.kind === 'refused') return 'deny';
  if (event.kind === 'connect') return event.decision.verdict;
  if (['hidden', 'integrity', 'lost', 'store', 'unowned'].includes(event.kind)) return 'warning';
  return 'info';
}

const party = (who) => plain(who ? [who.domain, who.exe].filter(Boolean).join(':') : '') || 'somebody';

/** An event as a sentence. */
function sentence(e) {
  switch (e.kind) {
    case 'exec':
      return `${command(e.process)} [${e.process.pid}] runs`;
    case 'connect':
      return `${command(e.process)} [${e.process.pid}] → ${e.remote} (${party(e.to)}), ${e.protocol}: ${e.decision.verdict} by ${plain(e.decision.rule)}`;
    case 'refused':
      return `${e.protocol} ${e.local} ${e.direction === 'out' ? '→' : '←'} ${e.remote} of ${party(e.who)}: denied by ${plain(e.decision.rule)}`;
    case 'threat':
      return `${plain(e.threat.title)} (${plain(e.threat.rule)})`;
    case 'policy':
      return plain(`generation ${e.generation}: ${e.message ?? e.change ?? ''}`);
    case 'backend':
      return plain(`${e.route}: ${e.backend} is ${e.state}${e.why ? `, ${e.why}` : ''}`);
    case 'sight':
      return plain(`${e.mode}: ${e.message}`);
    case 'domain':
      return plain(e.change);
    case 'hidden':
    case 'integrity':
      return plain(e.finding?.message ?? '');
    case 'listen':
    case 'bind':
      return `${command(e.process)} [${e.process.pid}] serves ${e.local}`;
    case 'close':
      return `${command(e.process)} [${e.process.pid}] no longer serves ${e.protocol} ${e.local}`;
    case 'unowned':
      return `${e.protocol} ${e.local} → ${e.remote}: no process owns it`;
    case 'lost':
      return plain(`${e.count} events were lost: ${e.place}`);
    default:
      return plain(e.message ?? '');
  }
}
