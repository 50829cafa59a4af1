// SPDX-License-Identifier: GPL-3.0-only
// What looks like an attack, with the evidence.

import { sources } from './api.js';
import { chip, el, facts, note, refill } from './dom.js';
import { ago, command, count, plain, some, timeOfNs } from './format.js';
import { domainLink, trouble } from './parts.js';
import { showAt } from './view-map.js';

const WORST_FIRST = ['alert', 'warning', 'notice'];

export function threatsView() {
  const troubles = trouble('the list of threats');
  const items = new Map();
  const list = el('ol', { class: 'threats' });
  const sum = el('p', { class: 'summary' });
  let least = 'notice';
  const filter = el(
    'select',
    {
      on: {
        change: () => {
          least = filter.value;
          show();
        },
      },
    },
    [
      ['notice', 'all'],
      ['warning', 'warnings and alerts'],
      ['alert', 'alerts'],
    ].map(([value, text]) => el('option', { value }, text)),
  );
  let stop = () => {};

  function show() {
    const found = sources.threats.value;
    if (!found) return;
    const wanted = found.threats.filter((t) => WORST_FIRST.indexOf(t.severity) <= WORST_FIRST.indexOf(least));
    const seen = new Set();
    for (const threat of wanted) {
      const id = `${threat.domain} ${threat.rule} ${threat.first_ns} ${threat.title}`;
      seen.add(id);
      const said = JSON.stringify(threat);
      const old = items.get(id);
      const element = old?.element ?? el('li', { class: `threat ${threat.severity}` });
      if (old?.said !== said) refill(element, item(threat));
      items.set(id, { element, said });
      list.append(element);
    }
    for (const [id, { element }] of items) {
      if (seen.has(id)) continue;
      element.remove();
      items.delete(id);
    }
    const parts = WORST_FIRST.map((severity) => [severity, found.threats.filter((t) => t.severity === severity).length]).filter(
      ([, n]) => n,
    );
    const more = [
      found.forgotten && `${count(found.forgotten)} older ones were let go for room`,
      found.missed && `${count(found.missed)} events came too fast to be looked at`,
    ].filter(Boolean);
    sum.textContent =
      [...parts.map(([severity, n]) => some(n, severity)), ...more].join(' · ') || 'Nothing was found since policyd runs.';
  }

  function item(t) {
    return [
      el('h2', {}, chip(t.severity, t.severity), ' ', plain(t.title)),
      facts([
        ['VM', t.domain ? domainLink(t.domain) : null],
        ['Rule', plain(t.rule)],
        ['ATT&CK', plain(t.technique)],
        ['Seen', t.count === 1 ? 'once' : `${count(t.count)} times`],
        ['First', timeOfNs(t.first_ns)],
        ['Last', `${timeOfNs(t.last_ns)} (${ago(t.last_ns / 1e9)})`],
      ]),
      el('h3', {}, 'Evidence'),
      el(
        'ul',
        {},
        t.evidence.map((fact) => el('li', {}, plain(fact))),
      ),
      t.process &&
        el(
          'p',
          {},
          'Process ',
          el('strong', {}, t.process.pid),
          ' ',
          el('code', {}, command(t.process)),
          t.process.parents.length > 0 && [' by ', el('code', {}, plain(t.process.parents.join(' ← ')))],
        ),
      t.answer && el('p', { class: 'answer' }, chip('deny', 'answered'), ' ', plain(t.answer)),
      el(
        'p',
        {},
        el('button', { type: 'button', class: 'quiet', on: { click: () => showAt(t.first_ns / 1e9) } }, 'The map of that moment'),
      ),
    ];
  }

  return {
    title: 'Threats',
    element: el(
      'div',
      { class: 'page' },
      el('h1', { tabindex: '-1' }, 'Threats'),
      el('div', { class: 'toolbar' }, el('label', { class: 'inline' }, 'Show ', filter), sum),
      troubles.element,
      list,
      rules(),
    ),
    start() {
      stop = sources.threats.watch((source) => {
        troubles.show(source);
        show();
      });
    },
    stop: () => stop(),
  };
}

/** What is looked for, asked when somebody wants to know. */
function rules() {
  const body = el('div');
  const element = el('details', { class: 'rules' }, el('summary', {}, 'What is looked for, and who does that honestly'), body);
  element.addEventListener('toggle', async () => {
    if (!element.open || sources.rules.value) return;
    await sources.rules.refresh();
    const { value, error } = sources.rules;
    if (value)
      refill(
        body,
        el(
          'dl',
          {},
          value.map((r) => [
            el('dt', {}, chip(r.severity, r.severity), ' ', r.id, ' ', el('span', { class: 'muted' }, r.technique)),
            el('dd', {}, `${r.about}. Honestly: ${r.benign}.`),
          ]),
        ),
      );
    else refill(body, note(plain(error.message), 'trouble'));
  });
  return element;
}
