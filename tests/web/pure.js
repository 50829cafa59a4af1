// SPDX-License-Identifier: GPL-3.0-only
// What the page works out without a browser.

import assert from 'node:assert/strict';
import { NOW, many, shop } from './daemon.js';
import { diff, hunks } from '../../policyd/web/page/diff.js';
import { bytes, command, micros, plain, rate, share } from '../../policyd/web/page/format.js';
import { layout } from '../../policyd/web/page/layout.js';
import { byVm, filtered, fromPast, fromSignals, homesOf } from '../../policyd/web/page/model.js';
import { test } from './runner.js';

const graphOf = (answers) => {
  const flows = answers['/v1/flows'](new URLSearchParams());
  return fromSignals(answers['/v1/signals'](), homesOf(flows), answers['/v1/domains']());
};

test('a diff says what makes one text of the other', () => {
  let state = 3;
  const chance = (n) => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) % n;
  for (let round = 0; round < 300; round += 1) {
    const text = () =>
      Array.from({ length: chance(12) }, () => 'abcd'[chance(4)])
        .map((line) => `${line}\n`)
        .join('');
    const [before, after] = [text(), text()];
    const rows = diff(before, after);
    const side = (signs) =>
      rows
        .filter((row) => signs.includes(row.sign))
        .map((row) => `${row.text}\n`)
        .join('');
    assert.equal(side(' -'), before);
    assert.equal(side(' +'), after);
    if (before === after) assert.ok(rows.every((row) => row.sign === ' '));
    const shown = hunks(rows, 1).reduce((n, row) => n + (row.skipped ?? 1), 0);
    assert.equal(shown, rows.length);
  }
  assert.deepEqual(
    diff('a\nb\nc\n', 'a\nx\nc\n')
      .map((row) => row.sign)
      .join(''),
    ' -+ ',
  );
});

test('values are written as people read them', () => {
  assert.equal(rate(0), '0/s');
  assert.equal(rate(0.05), '3/min');
  assert.equal(rate(14.04), '14/s');
  assert.equal(micros(950), '950 µs');
  assert.equal(micros(41_000), '41 ms');
  assert.equal(micros(null), '–');
  assert.equal(bytes(9_100_000), '9.1 MB');
  assert.equal(share(0.003), '<1 %');
  assert.equal(share(0.375), '38 %');
  assert.equal(plain('a\u001b[2J\u202eb'), 'a\\u{1b}[2J\\u{202e}b');
  assert.equal(command({ exe: '/bin/a', args: ['a', '-x'] }), '/bin/a -x');
  assert.equal(command({ exe: null, comm: 'kthreadd', args: [] }), '[kthreadd]');
});

test('the map adds up pairs, and knows verdicts, latencies and what is slow', () => {
  const graph = graphOf(shop());
  assert.equal(graph.nodes.get('service:shop/db').home, 'db1');
  assert.deepEqual(graph.nodes.get('service:shop/front').homes, ['web1', 'web2']);
  const edge = (from, to) => graph.edges.get(`${from} → ${to}`);
  const front = edge('service:shop/front', 'service:shop/api');
  assert.equal(front.connections, 4320);
  assert.equal(front.pairs.length, 2);
  assert.equal(front.verdict, 'allow');
  assert.equal(front.slow.culprit, 'network');
  assert.equal(edge('service:shop/api', 'service:shop/db').p99, 164_000);
  assert.equal(edge('domain:web1', 'service:shop/db').verdict, 'deny');
  assert.equal(edge('domain:web2', 'world:world').verdict, 'part');
  assert.equal(edge('service:shop/db', 'domain:backup1').verdict, 'idle');
  // A service in two VMs stays what it is; all else is its VM.
  const vms = byVm(graph);
  assert.deepEqual([...vms.nodes.keys()].sort(), [
    'service:shop/front',
    'vm:api1',
    'vm:backup1',
    'vm:cache1',
    'vm:db1',
    'vm:mail1',
    'vm:web1',
    'vm:web2',
    'world:world',
  ]);
  assert.equal(vms.edges.get('vm:web1 → vm:db1').denied, 14);
  const denied = filtered(graph, { only: 'denied' });
  assert.deepEqual([...denied.edges.values()].map((e) => e.verdict).sort(), ['deny', 'part']);
  assert.deepEqual([...filtered(graph, { text: 'MAIL' }).nodes.keys()].sort(), ['service:shop/api', 'service:shop/mail']);
  assert.equal(filtered(graph, { text: 'nothing of that name' }).nodes.size, 0);
  const past = shop()['/v1/flows/history'](new URLSearchParams({ since: NOW - 60, until: NOW }));
  const then = fromPast(past, homesOf([], past.flows));
  assert.equal(then.edges.get('domain:web1 → world:world').verdict, 'deny');
  assert.equal(then.edges.get('service:shop/api → service:shop/db').rate, 290 / 60);
});

test('things stand beside each other, who calls to the left, always at the same place', () => {
  for (const answers of [shop(), many()]) {
    const graph = graphOf(answers);
    const places = layout(graph);
    assert.deepEqual([...places.keys()].sort(), [...graph.nodes.keys()].sort());
    const shuffled = { ...graph, nodes: new Map([...graph.nodes].reverse()), edges: new Map([...graph.edges].reverse()) };
    assert.deepEqual(layout(shuffled), places);
    const all = [...places.values()];
    for (const [i, a] of all.entries())
      for (const b of all.slice(i + 1))
        assert.ok(Math.abs(a.x - b.x) >= 132 || Math.abs(a.y - b.y) >= 36, `${JSON.stringify(a)} ${JSON.stringify(b)}`);
  }
  const places = layout(graphOf(shop()));
  const x = (id) => places.get(id).x;
  assert.ok(
    x('world:world') < x('service:shop/front') &&
      x('service:shop/front') < x('service:shop/api') &&
      x('service:shop/api') < x('service:shop/db'),
  );
});
