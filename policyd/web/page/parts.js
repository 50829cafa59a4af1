// SPDX-License-Identifier: GPL-3.0-only
// What several views show: links, verdicts, flows, and what went wrong.

import { chip, el, note, refill } from './dom.js';
import { bytes, command, micros, plain, span } from './format.js';
import { table } from './table.js';

export const domainLink = (name, text = name) => el('a', { href: `#/domains/${encodeURIComponent(name)}` }, plain(text));

export const verdict = (word, text = word) => chip(word === 'deny' ? 'deny' : 'allow', text);

/** Where it is said that something could not be asked; what was there before stays beside it. `instead`: what is done without it. */
export function trouble(what, instead = '') {
  const place = el('div', { class: 'troubles' });
  return {
    element: place,
    /** @param {import('./api.js').Source | { error: any, value?: any }} source */
    show(source) {
      const { error } = source;
      if (!error) {
        if (place.firstChild) refill(place);
        return;
      }
      const old = source.value === undefined ? '' : ' What is shown is from before.';
      const why = plain(error.message);
      const text =
        error.status === 404
          ? `This policyd does not know ${what}; it may be of an older version. ${instead}`.trim()
          : `${what}: ${why}${/[.!?]$/.test(why) ? '' : '.'}${old}`;
      if (place.textContent !== text) refill(place, note(text, error.status === 404 ? 'note' : 'trouble'));
    },
  };
}

/** A table of processes; `chosen` has the number of the one whose flows are shown. */
export function processTable(choose, chosen) {
  return table({
    caption: 'Processes',
    key: (p) => `${p.pid}-${p.start_time_ns}`,
    empty: 'No process is seen.',
    sort: 'pid',
    current: (p) => p.pid === chosen(),
    columns: [
      {
        key: 'pid',
        label: 'PID',
        number: true,
        value: (p) => p.pid,
        cell: (p) =>
          el(
            'button',
            { type: 'button', class: 'link', 'aria-label': `Flows of process ${p.pid}`, on: { click: () => choose(p.pid) } },
            p.pid,
          ),
      },
      { key: 'what', label: 'Program', value: (p) => command(p), cell: (p) => program(p) },
      { key: 'user', label: 'User', number: true, value: (p) => p.euid },
      { key: 'container', label: 'Container', value: (p) => plain((p.container ?? '').slice(0, 12)) },
      { key: 'parent', label: 'Parent', value: (p) => plain(p.parents?.[0] ?? '') },
    ],
  });
}

function program(p) {
  const line = el('span', { class: 'program' }, el('code', {}, command(p)));
  if (p.exe_deleted) line.append(' ', chip('warning', 'file deleted'));
  return line;
}

/** A table of flows at vifs. */
export function flowTable({ domain = true } = {}) {
  const who = (f) => plain(f.who?.exe ? `${f.who.exe}${f.who.pid ? ` [${f.who.pid}]` : ''}` : '');
  const columns = [
    { key: 'domain', label: 'VM', value: (f) => f.domain, cell: (f) => domainLink(f.domain) },
    { key: 'who', label: 'Process', value: who, cell: (f) => el('code', {}, who(f) || '–') },
    {
      key: 'way',
      label: 'Way',
      value: (f) => (f.outgoing ? 'out' : 'in'),
      cell: (f) => (f.outgoing ? '→\u00a0out' : '←\u00a0in'),
    },
    { key: 'protocol', label: 'Protocol', value: (f) => f.protocol },
    { key: 'local', label: 'Guest', value: (f) => f.local },
    {
      key: 'remote',
      label: 'Other side',
      value: (f) => f.remote,
      cell: (f) => (f.route ? `${f.remote} ⇒ ${f.route.backend}` : f.remote),
    },
    { key: 'verdict', label: 'Verdict', value: (f) => f.decision.verdict, cell: (f) => verdict(f.decision.verdict) },
    { key: 'rule', label: 'Rule', value: (f) => plain(f.decision.rule) },
    {
      key: 'bytes',
      label: 'Bytes out / in',
      number: true,
      value: (f) => f.bytes_out + f.bytes_in,
      cell: (f) => `${bytes(f.bytes_out)} / ${bytes(f.bytes_in)}`,
    },
    {
      key: 'setup',
      label: 'Set-up',
      number: true,
      value: (f) => f.timing?.setup_us ?? -1,
      cell: (f) => micros(f.timing?.setup_us),
    },
    {
      key: 'rtt',
      label: 'Round trip',
      number: true,
      value: (f) => f.timing?.rtt_out_us ?? -1,
      cell: (f) => micros(f.timing?.rtt_out_us),
    },
    { key: 'state', label: 'State', value: (f) => f.state },
    { key: 'idle', label: 'Idle', number: true, value: (f) => f.idle_ms, cell: (f) => span(f.idle_ms / 1000) },
  ];
  return table({
    caption: 'Flows',
    key: (f) => `${f.domain} ${f.protocol} ${f.local} ${f.remote} ${f.outgoing}`,
    empty: 'No flow is open.',
    sort: 'idle',
    columns: domain ? columns : columns.slice(1),
  });
}
