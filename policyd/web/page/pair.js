// SPDX-License-Identifier: GPL-3.0-only
// How a pair of services fares, for the details: now, or at a time of the past.

import { sources } from './api.js';
import { chip, el, facts, note, refill } from './dom.js';
import { bytes, count, end, micros, plain, rate, share } from './format.js';
import { VERDICTS, flowsOf } from './model.js';
import { domainLink, verdict } from './parts.js';
import { table } from './table.js';

/** Flows that are listed here; the view of the VM has all. */
const SOME = 12;

/** How a pair fares now. */
export function edgeParts() {
  const about = el('div');
  const flows = el('div');
  return {
    element: el('div', {}, about, flows),
    update(graph, edge) {
      const seconds = graph.seconds;
      refill(
        about,
        chip(edge.verdict === 'idle' ? 'off' : edge.verdict, VERDICTS[edge.verdict]),
        slow(edge),
        edge.pairs.map((pair) => onePair(pair, seconds)),
      );
      const own = flowsOf(sources.flows.value ?? [], edge, graph.nodes);
      refill(
        flows,
        el('h3', {}, 'Flows now'),
        own.length
          ? el(
              'ul',
              { class: 'plain flows' },
              own
                .slice(0, SOME)
                .map((f) =>
                  el(
                    'li',
                    {},
                    verdict(f.decision.verdict),
                    ' ',
                    el('code', {}, `${f.local} ${f.outgoing ? '→' : '←'} ${f.remote}`),
                    ' ',
                    plain(f.who?.exe ?? ''),
                    ' ',
                    el('span', { class: 'muted' }, `by ${plain(f.decision.rule)}`),
                  ),
                ),
            )
          : note('None is open.'),
        own.length > SOME && note(`and ${own.length - SOME} more`),
        el(
          'p',
          {},
          [...new Set(own.map((f) => f.domain))].map((domain) => [domainLink(domain, `All flows of ${domain}`), ' ']),
        ),
      );
    },
  };
}

function slow(edge) {
  return (
    edge.slow &&
    el(
      'p',
      { class: 'finding' },
      chip('slow', `slow by the ${edge.slow.culprit}, ×${edge.slow.factor.toFixed(1)}`),
      ' ',
      plain(edge.slow.evidence),
    )
  );
}

function onePair(pair, seconds) {
  const w = pair.window;
  const name = `${pair.protocol}${pair.port ? ` ${pair.port}` : ''}${pair.version ? `, version ${plain(pair.version)}` : ''}`;
  const times = [
    ['Set-up', w.setup_us],
    ['First byte', w.first_byte_us],
    ['Round trip to the server', w.server_rtt_us],
    ['Round trip to the client', w.client_rtt_us],
  ].filter(([, q]) => q.count > 0);
  return [
    el('h3', {}, name),
    facts([
      ['Rate', rate(w.connections / seconds)],
      ['Open', count(pair.open)],
      ['Denied', w.denied ? `${count(w.denied)} (${share(w.denied / w.connections)})` : null],
      ['Failed', w.failed ? count(w.failed) : null],
      ['Bytes out', `${bytes(w.bytes_out / seconds)}/s`],
      ['Bytes in', `${bytes(w.bytes_in / seconds)}/s`],
      [
        'Came twice',
        w.retransmissions_out + w.retransmissions_in
          ? `${count(w.retransmissions_out)} out, ${count(w.retransmissions_in)} in`
          : null,
      ],
      [
        'Windows shut',
        w.zero_windows_out + w.zero_windows_in ? `${count(w.zero_windows_out)} client, ${count(w.zero_windows_in)} server` : null,
      ],
    ]),
    times.length > 0 &&
      el(
        'table',
        { class: 'small' },
        el('caption', { class: 'visually-hidden' }, `Latencies of ${name}`),
        el(
          'thead',
          {},
          el(
            'tr',
            {},
            ['', 'p50', 'p90', 'p99', 'max'].map((head) =>
              head ? el('th', { scope: 'col', class: 'number' }, head) : el('td', {}),
            ),
          ),
        ),
        el(
          'tbody',
          {},
          times.map(([what, q]) =>
            el(
              'tr',
              {},
              el('th', { scope: 'row' }, what),
              [q.p50, q.p90, q.p99, q.max].map((us) => el('td', { class: 'number' }, micros(us))),
            ),
          ),
        ),
      ),
  ];
}

/** What a pair did at a time of the past. */
export function pastParts() {
  const list = table({
    caption: 'Flows of that time',
    key: (f) => JSON.stringify([f.from, f.to, f.protocol, f.port, f.verdict, f.rule]),
    empty: 'There were none.',
    sort: 'flows',
    descending: true,
    columns: [
      { key: 'from', label: 'From', value: (f) => end(f.from), cell: (f) => el('code', {}, end(f.from)) },
      { key: 'to', label: 'To', value: (f) => end(f.to), cell: (f) => el('code', {}, end(f.to)) },
      { key: 'port', label: 'Port', value: (f) => `${f.protocol} ${f.port ?? 'many'}` },
      { key: 'verdict', label: 'Verdict', value: (f) => f.verdict, cell: (f) => verdict(f.verdict) },
      { key: 'rule', label: 'Rule', value: (f) => plain(f.rule) },
      { key: 'flows', label: 'Flows', number: true, value: (f) => f.flows, cell: (f) => count(f.flows) },
      {
        key: 'bytes',
        label: 'Bytes',
        number: true,
        value: (f) => f.bytes_out + f.bytes_in,
        cell: (f) => bytes(f.bytes_out + f.bytes_in),
      },
    ],
  });
  return { element: list.element, update: (_, edge) => list.update(edge.past) };
}
