// SPDX-License-Identifier: GPL-3.0-only
// Generations of the policy: who changed what, when and why.

import { get, sources } from './api.js';
import { diff, hunks } from './diff.js';
import { chip, el, note, refill } from './dom.js';
import { plain, some, timeOfNs } from './format.js';
import { trouble } from './parts.js';
import { table } from './table.js';
import { showAt } from './view-map.js';

const author = (by) => plain(by.name ?? `uid ${by.uid}`);
const edited = (g) => g.edits.map((e) => `${e.before ? (e.after ? '' : '−') : '+'}${e.set}`).join(', ');

/** @param {string | undefined} number of the generation to show; without it the newest. */
export function policyView(number) {
  const troubles = trouble('the history of the policy');
  const setTroubles = trouble('the list of policy sets');
  let older = [];
  let next;
  let chosen = number === undefined ? null : Number(number);
  let shownFor = null;
  const stops = [];

  const list = table({
    caption: 'Generations',
    key: (g) => String(g.generation),
    empty: 'The policy has never been changed.',
    sort: 'generation',
    descending: true,
    current: (g) => g.generation === chosen,
    columns: [
      {
        key: 'generation',
        label: 'No.',
        number: true,
        value: (g) => g.generation,
        cell: (g) =>
          el('a', { href: `#/policy/${g.generation}`, 'aria-label': `What generation ${g.generation} changed` }, g.generation),
      },
      { key: 'time', label: 'When', value: (g) => g.time_ns, cell: (g) => timeOfNs(g.time_ns) },
      { key: 'by', label: 'Who', value: (g) => author(g.by) },
      {
        key: 'action',
        label: 'What',
        value: (g) => g.action,
        cell: (g) => `${g.action}${g.to === undefined ? '' : ` to ${g.to}`}`,
      },
      { key: 'sets', label: 'Sets', value: (g) => plain(edited(g)) },
      { key: 'why', label: 'Why', value: (g) => plain(g.message ?? '') },
    ],
  });
  const more = el('button', { type: 'button', class: 'quiet', hidden: true, on: { click: loadOlder } }, 'Older ones');
  const changes = el('section', { class: 'changes', 'aria-live': 'off', 'aria-label': 'What the generation changed' });
  const sets = table({
    caption: 'Sets in force',
    key: (s) => s.name,
    empty: 'No policy set is in force: no traffic is changed.',
    sort: 'name',
    columns: [
      { key: 'name', label: 'Set', value: (s) => plain(s.name) },
      { key: 'description', label: 'Description', value: (s) => plain(s.description ?? '') },
      { key: 'services', label: 'Services', number: true, value: (s) => s.services },
      { key: 'rules', label: 'Rules', number: true, value: (s) => s.rules },
      { key: 'routes', label: 'Routes', number: true, value: (s) => s.routes },
      {
        key: 'generation',
        label: 'Changed in',
        number: true,
        value: (s) => s.generation,
        cell: (s) =>
          el(
            'a',
            {
              href: `#/policy/${s.generation}`,
              'aria-label': `Generation ${s.generation}, in which ${plain(s.name)} was changed`,
            },
            s.generation,
          ),
      },
    ],
  });

  const all = () => [...(sources.history.value?.generations ?? []), ...older];

  async function loadOlder() {
    try {
      const page = await get(`/v1/history?limit=100&before=${next}`);
      older = [...older, ...page.generations];
      next = page.next ?? null;
    } catch (error) {
      troubles.show({ error, value: true });
    }
    show();
  }

  function show() {
    const newest = sources.history.value;
    if (!newest) return;
    if (next === undefined) next = newest.next ?? null;
    const seen = new Set();
    list.update(all().filter((g) => !seen.has(g.generation) && seen.add(g.generation)));
    more.hidden = next === null;
    const wanted = chosen ?? newest.generations[0]?.generation;
    if (wanted === undefined) refill(changes);
    else if (wanted !== shownFor) void showChanges(wanted);
  }

  async function showChanges(generation) {
    shownFor = generation;
    const heading = el('h2', { tabindex: '-1' }, `What generation ${generation} changed`);
    refill(changes, heading, note('asking …'));
    const known = all().find((g) => g.generation === generation);
    try {
      const [after, before] = await Promise.all([
        get(`/v1/history/${generation}`),
        generation > 0 ? get(`/v1/history/${generation - 1}`).catch((e) => (e.status === 404 ? null : Promise.reject(e))) : null,
      ]);
      if (shownFor !== generation) return;
      const names = [...new Set([...Object.keys(after.sets), ...Object.keys(before?.sets ?? {})])].sort();
      const differing = before ? names.filter((name) => after.sets[name] !== before.sets[name]) : names;
      refill(
        changes,
        heading,
        known &&
          el(
            'p',
            {},
            `${timeOfNs(known.time_ns)}, ${author(known.by)}: ${known.action}`,
            known.message ? [' – ', el('q', {}, plain(known.message))] : '',
            ' ',
            el(
              'button',
              { type: 'button', class: 'quiet', on: { click: () => showAt(known.time_ns / 1e9) } },
              'The map of that moment',
            ),
          ),
        !before && generation > 0 && note('The generation before is not kept any more; these are the sets as they were.'),
        differing.length
          ? differing.map((name) => oneSet(name, before?.sets[name], after.sets[name]))
          : note('No set differs from the generation before.'),
      );
    } catch (error) {
      if (shownFor !== generation) return;
      refill(changes, heading, note(plain(error.message), 'trouble'));
      shownFor = null;
    }
  }

  return {
    title: chosen === null ? 'Policy' : `Policy ${chosen}`,
    element: el(
      'div',
      { class: 'page' },
      el('h1', { tabindex: '-1' }, 'Policy'),
      troubles.element,
      el('div', { class: 'columns' }, el('div', {}, list.element, more), changes),
      setTroubles.element,
      sets.element,
    ),
    start() {
      stops.push(
        sources.history.watch((source) => {
          troubles.show(source);
          show();
        }),
        sources.policies.watch((source) => {
          setTroubles.show(source);
          if (source.value) sets.update(source.value);
        }),
      );
    },
    /** Another generation, without losing the list. */
    turn(other) {
      chosen = other === undefined ? null : Number(other);
      show();
      changes.querySelector('h2')?.focus();
    },
    stop: () => stops.forEach((stop) => stop()),
  };
}

/** What became of one set. */
function oneSet(name, before, after) {
  const rows = diff(before ?? '', after ?? '');
  const what = before === undefined ? 'is new' : after === undefined ? 'is gone' : 'was changed';
  const [plus, minus] = ['+', '-'].map((sign) => rows.filter((row) => row.sign === sign).length);
  const line = (row) => {
    if (row.skipped) return el('tr', { class: 'skipped' }, el('td', { colspan: 4 }, `${some(row.skipped, 'line')} the same`));
    const word = { '+': 'added', '-': 'taken out', ' ': '' }[row.sign];
    return el(
      'tr',
      { class: { '+': 'plus', '-': 'minus', ' ': 'same' }[row.sign] },
      el('td', { class: 'number', 'aria-hidden': 'true' }, row.before ?? ''),
      el('td', { class: 'number', 'aria-hidden': 'true' }, row.after ?? ''),
      el(
        'td',
        { class: 'sign' },
        el('span', { 'aria-hidden': 'true' }, row.sign === '-' ? '−' : row.sign),
        word && el('span', { class: 'visually-hidden' }, word),
      ),
      el('td', {}, el('code', {}, plain(row.text.replace(/\t/g, '    ')))),
    );
  };
  return el(
    'div',
    { class: 'set' },
    el(
      'h3',
      {},
      el('code', {}, plain(name)),
      ` ${what} `,
      plus > 0 && chip('allow', `${some(plus, 'line')} added`),
      ' ',
      minus > 0 && chip('deny', `${some(minus, 'line')} taken out`),
    ),
    el(
      'div',
      { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Changes of ${plain(name)}` },
      el(
        'table',
        { class: 'diff' },
        el('caption', { class: 'visually-hidden' }, `Changes of ${plain(name)}`),
        el('tbody', {}, hunks(rows).map(line)),
      ),
    ),
  );
}
