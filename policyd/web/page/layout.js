// SPDX-License-Identifier: GPL-3.0-only
// Where things are on the map. Pure, and always the same for the same graph: who calls stands left of who is called, and what is in
// one VM stands in one box.

import { boxId } from './model.js';

const NODE = { width: 132, height: 36 };
const GAP = { x: 18, y: 14 };
const PADDING = { side: 14, top: 30 };
const BOX_GAP = { x: 130, inner: 46, y: 30 };
/** Where there is room, boxes stand so far apart. */
const MOST_GAP = 110;
/** Columns beyond this are drawn together. */
const RANKS = 9;
const ASPECT = 1.7;

/** Sizes, for who draws. */
export const SIZES = { node: NODE };

/**
 * @param {import('./model.js').MapGraph} graph
 * @returns {Map<string, { x: number, y: number }>} middles of the nodes
 */
export function layout(graph) {
  const boxes = boxesOf(graph);
  const links = linksOf(graph, boxes);
  rank(boxes, links);
  const columns = order(boxes, links);
  return place(columns);
}

function boxesOf(graph) {
  const boxes = new Map();
  for (const node of [...graph.nodes.values()].sort((a, b) => (a.id < b.id ? -1 : 1))) {
    const id = node.home ? boxId(node.home) : node.id;
    if (!boxes.has(id)) boxes.set(id, { id, framed: Boolean(node.home), nodes: [], rank: 0, at: 0, busy: false });
    boxes.get(id).nodes.push(node.id);
  }
  for (const box of boxes.values()) {
    const n = box.nodes.length;
    box.across = Math.max(1, Math.round(Math.sqrt(n / 2.2)));
    box.down = Math.ceil(n / box.across);
    const frame = box.framed ? PADDING : { side: 0, top: 0 };
    box.width = box.across * NODE.width + (box.across - 1) * GAP.x + 2 * frame.side;
    box.height = box.down * NODE.height + (box.down - 1) * GAP.y + frame.top + frame.side;
  }
  return boxes;
}

function linksOf(graph, boxes) {
  const of = new Map();
  for (const box of boxes.values()) for (const node of box.nodes) of.set(node, box.id);
  const out = new Map([...boxes.keys()].map((id) => [id, new Set()]));
  const into = new Map([...boxes.keys()].map((id) => [id, new Set()]));
  // What goes out into the world does not draw it to the right when it calls, too: who calls first stands left.
  const calls = new Set([...graph.edges.values()].map((edge) => edge.from));
  for (const edge of graph.edges.values()) {
    const [a, b] = [of.get(edge.from), of.get(edge.to)];
    if (graph.nodes.get(edge.to)?.kind === 'world' && calls.has(edge.to)) {
      boxes.get(a).busy = true;
      continue;
    }
    if (a === undefined || b === undefined || a === b) continue;
    out.get(a).add(b);
    into.get(b).add(a);
  }
  // In order: sums of the same numbers in another order are not always the same.
  for (const links of [out, into]) for (const [id, others] of links) links.set(id, new Set([...others].sort()));
  return { out, into };
}

/** Columns: as far right as the longest way to a box, going round no circle twice. */
function rank(boxes, { out, into }) {
  const balance = (id) => out.get(id).size - into.get(id).size;
  const ids = [...boxes.keys()].sort((a, b) => balance(b) - balance(a) || (a < b ? -1 : 1));
  const seen = new Map();
  const after = [];
  // Depth first, without recursion: a chain may be as long as there are boxes.
  for (const start of ids) {
    if (seen.has(start)) continue;
    const stack = [[start, [...out.get(start)]]];
    seen.set(start, 'open');
    while (stack.length) {
      const [id, rest] = stack.at(-1);
      const next = rest.shift();
      if (next === undefined) {
        seen.set(id, 'done');
        after.push(id);
        stack.pop();
      } else if (!seen.has(next)) {
        seen.set(next, 'open');
        stack.push([next, [...out.get(next)]]);
      }
    }
  }
  const place = new Map(after.reverse().map((id, index) => [id, index]));
  for (const id of place.keys()) {
    for (const next of out.get(id)) {
      if (place.get(next) > place.get(id)) boxes.get(next).rank = Math.max(boxes.get(next).rank, boxes.get(id).rank + 1);
    }
  }
  const last = Math.max(0, ...[...boxes.values()].map((box) => box.rank));
  for (const box of boxes.values()) {
    if (last >= RANKS) box.rank = Math.floor((box.rank * RANKS) / (last + 1));
    if (!box.busy && !out.get(box.id).size && !into.get(box.id).size) box.rank = RANKS + 1;
  }
}

/** Up and down: near the middle of those a box has to do with. */
function order(boxes, { out, into }) {
  const columns = [];
  for (const box of boxes.values()) (columns[box.rank] ??= []).push(box);
  const shown = columns.filter(Boolean);
  const number = () => shown.forEach((column) => column.forEach((box, index) => (box.at = (index + 0.5) / column.length)));
  number();
  for (let sweep = 0; sweep < 6; sweep += 1) {
    const near = sweep % 2 ? out : into;
    for (const column of sweep % 2 ? [...shown].reverse() : shown) {
      const pull = (box) => {
        const others = [...near.get(box.id)].map((id) => boxes.get(id).at);
        return others.length ? others.reduce((sum, at) => sum + at, 0) / others.length : box.at;
      };
      const pulls = new Map(column.map((box) => [box, pull(box)]));
      column.sort((a, b) => pulls.get(a) - pulls.get(b) || (a.id < b.id ? -1 : 1));
    }
    number();
  }
  return shown;
}

function place(columns) {
  const area = columns.flat().reduce((sum, box) => sum + (box.width + BOX_GAP.inner) * (box.height + BOX_GAP.y), 0);
  const tallest = Math.max(0, ...columns.flat().map((box) => box.height));
  const limit = Math.max(tallest, Math.sqrt(area / ASPECT), 640);
  const split = columns.map((column) => parts(column, limit));
  const gap = gapOf(split);
  const positions = new Map();
  let x = 0;
  for (const column of split) {
    for (const part of column) {
      const width = Math.max(...part.map((box) => box.width));
      const height = part.reduce((sum, box) => sum + box.height + gap, -gap);
      let y = -height / 2;
      for (const box of part) {
        put(box, x + (width - box.width) / 2, y, positions);
        y += box.height + gap;
      }
      x += width + BOX_GAP.inner;
    }
    x += BOX_GAP.x - BOX_GAP.inner;
  }
  return positions;
}

/** So large that all of it is about as wide and tall as a window is. */
function gapOf(columns) {
  const widths = columns.map((column) =>
    column.reduce((sum, part) => sum + Math.max(...part.map((box) => box.width)) + BOX_GAP.inner, -BOX_GAP.inner),
  );
  const width = widths.reduce((sum, w) => sum + w + BOX_GAP.x, -BOX_GAP.x);
  const all = columns.flat();
  const rest = (part) => (width / ASPECT - part.reduce((sum, box) => sum + box.height, 0)) / (part.length - 1);
  const least = Math.min(MOST_GAP, ...all.filter((part) => part.length > 1).map(rest));
  return Math.max(BOX_GAP.y, least);
}

/** A column that is too tall stands as several, side by side. */
function parts(column, limit) {
  const whole = column.reduce((sum, box) => sum + box.height + BOX_GAP.y, 0);
  const each = whole / Math.ceil(whole / limit);
  const all = [[]];
  let height = 0;
  for (const box of column) {
    if (all.at(-1).length && height + box.height / 2 > each) {
      all.push([]);
      height = 0;
    }
    all.at(-1).push(box);
    height += box.height + BOX_GAP.y;
  }
  return all;
}

function put(box, left, top, positions) {
  const frame = box.framed ? PADDING : { side: 0, top: 0 };
  box.nodes.forEach((node, index) => {
    const [column, row] = [Math.floor(index / box.down), index % box.down];
    positions.set(node, {
      x: left + frame.side + column * (NODE.width + GAP.x) + NODE.width / 2,
      y: top + frame.top + row * (NODE.height + GAP.y) + NODE.height / 2,
    });
  });
}
