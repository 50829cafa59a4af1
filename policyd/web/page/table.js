// SPDX-License-Identifier: GPL-3.0-only
// Tables that can be sorted, stay where they are when their rows change, and keep the focus.

import { announce, el, refill } from './dom.js';

/** Rows that are shown before somebody asks for all. */
const SHOWN = 200;

/**
 * @typedef {{ key: string, label: string, number?: boolean, value: (row: any) => string | number, cell?: (row: any) => any }} Column
 * `value`: what is sorted by, and shown where there is no `cell`.
 */

/**
 * @param {{ caption: string, columns: Column[], key: (row: any) => string, empty: string, sort?: string, descending?: boolean,
 *   visible?: boolean, current?: (row: any) => boolean }} about
 * @returns {{ element: HTMLElement, update: (rows: any[]) => void }}
 */
export function table({ caption, columns, key, empty, sort, descending = false, visible = true, current }) {
  const body = el('tbody');
  let rows = [];
  let all = false;
  let by = sort;
  let down = descending;
  const kept = new Map();
  const heads = columns.map((column) => {
    const arrow = el('span', { 'aria-hidden': 'true', class: 'arrow' });
    const button = el('button', { type: 'button', on: { click: () => turn(column) } }, column.label, arrow);
    const head = el('th', { scope: 'col', class: column.number && 'number' }, button);
    return { column, head, arrow };
  });
  const more = el('button', { type: 'button', class: 'quiet', hidden: true, on: { click: showAll } });
  const none = el('p', { class: 'note', hidden: true }, empty);
  const grid = el(
    'table',
    {},
    el('caption', { class: visible ? null : 'visually-hidden' }, caption),
    el(
      'thead',
      {},
      el(
        'tr',
        {},
        heads.map(({ head }) => head),
      ),
    ),
    body,
  );
  const frame = el('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, grid);
  const element = el('div', { class: 'table' }, frame, none, more);

  function turn(column) {
    down = by === column.key ? !down : Boolean(column.number);
    by = column.key;
    draw();
    announce(`sorted by ${column.label}, ${down ? 'descending' : 'ascending'}`);
  }

  function showAll() {
    all = true;
    draw();
    frame.focus();
  }

  function ordered() {
    const column = columns.find((c) => c.key === by);
    if (!column) return rows;
    const values = new Map(rows.map((row) => [row, column.value(row)]));
    const compare = (a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      const order =
        typeof x === 'number' && typeof y === 'number' ? x - y : String(x).localeCompare(String(y), 'en', { numeric: true });
      return (down ? -order : order) || (key(a) < key(b) ? -1 : 1);
    };
    return [...rows].sort(compare);
  }

  function draw() {
    for (const { column, head, arrow } of heads) {
      if (column.key === by) head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      else head.removeAttribute('aria-sort');
      arrow.textContent = column.key === by ? (down ? ' ▾' : ' ▴') : '';
    }
    const list = ordered();
    const shown = all ? list : list.slice(0, SHOWN);
    const place = focused();
    const seen = new Set();
    let before = null;
    for (const row of shown) {
      // Two of one key are two rows all the same.
      let id = key(row);
      while (seen.has(id)) id += ' (again)';
      seen.add(id);
      const line = lineOf(id, row);
      const next = before ? before.nextSibling : body.firstChild;
      if (line !== next) body.insertBefore(line, next);
      before = line;
    }
    for (const [id, { line }] of kept) {
      if (seen.has(id)) continue;
      line.remove();
      kept.delete(id);
    }
    if (place) kept.get(place.id)?.line.querySelectorAll('a, button')[place.index]?.focus({ preventScroll: true });
    more.hidden = shown.length === list.length;
    refill(more, `Show all ${list.length}`);
    none.hidden = list.length > 0;
    frame.hidden = list.length === 0;
  }

  /** Which row, and what in it, has the focus. */
  function focused() {
    const line = document.activeElement?.closest?.('tr');
    if (!line || line.parentNode !== body) return null;
    const index = [...line.querySelectorAll('a, button')].indexOf(document.activeElement);
    return index < 0 ? null : { id: line.dataset.key, index };
  }

  function lineOf(id, row) {
    const cells = columns.map((column) => (column.cell ? column.cell(row) : String(column.value(row))));
    const said = cells.map((cell) => (cell instanceof Node ? cell.textContent + (cell.href ?? '') : cell)).join('\u0000');
    const old = kept.get(id);
    const line = old?.line ?? el('tr', { 'data-key': id });
    if (old?.said !== said) {
      const make = (cell, index) => {
        const { number } = columns[index];
        return index === 0
          ? el('th', { scope: 'row', class: number && 'number' }, cell)
          : el('td', { class: number && 'number' }, cell);
      };
      refill(line, cells.map(make));
    }
    line.classList.toggle('current', current?.(row) ?? false);
    kept.set(id, { line, said });
    return line;
  }

  return {
    element,
    update(news) {
      rows = news;
      draw();
    },
  };
}
