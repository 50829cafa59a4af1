// SPDX-License-Identifier: GPL-3.0-only
// What differs between two texts, line by line. Pure.

/** Beyond so many cells the table of common lines is not worked out, and all is told as changed. */
const CELLS = 4_000_000;

/**
 * @param {string} before @param {string} after
 * @returns {{ sign: ' ' | '+' | '-', text: string, before?: number, after?: number }[]} with numbers of lines from 1
 */
export function diff(before, after) {
  const a = split(before);
  const b = split(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end += 1;
  const rows = [];
  const same = (i, j) => rows.push({ sign: ' ', text: a[i], before: i + 1, after: j + 1 });
  for (let i = 0; i < start; i += 1) same(i, i);
  middle(a, b, start, a.length - end, b.length - end, rows, same);
  for (let i = end; i > 0; i -= 1) same(a.length - i, b.length - i);
  return rows;
}

function split(text) {
  const lines = text.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

function middle(a, b, start, endA, endB, rows, same) {
  const n = endA - start;
  const m = endB - start;
  const gone = (i) => rows.push({ sign: '-', text: a[i], before: i + 1 });
  const come = (j) => rows.push({ sign: '+', text: b[j], after: j + 1 });
  if (n * m > CELLS) {
    for (let i = start; i < endA; i += 1) gone(i);
    for (let j = start; j < endB; j += 1) come(j);
    return;
  }
  // The longest common lines from each pair of places to the ends.
  const width = m + 1;
  const common = new Uint32Array((n + 1) * width);
  for (let i = n - 1; i >= 0; i -= 1) {
    for (let j = m - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        a[start + i] === b[start + j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  let i = 0;
  let j = 0;
  while (i < n || j < m) {
    if (i < n && j < m && a[start + i] === b[start + j]) {
      same(start + i, start + j);
      i += 1;
      j += 1;
    } else if (j >= m || (i < n && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      gone(start + i);
      i += 1;
    } else {
      come(start + j);
      j += 1;
    }
  }
}

/** Only what differs, with some lines around; the others are told by their number as `{ skipped }`. */
export function hunks(rows, around = 3) {
  const near = rows.map(() => false);
  rows.forEach((row, at) => {
    if (row.sign === ' ') return;
    for (let i = Math.max(0, at - around); i <= Math.min(rows.length - 1, at + around); i += 1) near[i] = true;
  });
  const shown = [];
  let skipped = 0;
  rows.forEach((row, at) => {
    if (near[at]) {
      if (skipped) shown.push({ skipped });
      skipped = 0;
      shown.push(row);
    } else skipped += 1;
  });
  if (skipped) shown.push({ skipped });
  return shown;
}
