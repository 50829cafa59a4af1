// SPDX-License-Identifier: GPL-3.0-only
// Values as people read them. Pure.

/** Characters that a guest could use to look like something else: controls, and those that turn the direction of text. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text of a guest with what is unseen written out. */
export function plain(text) {
  return String(text ?? '').replace(UNSEEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

function digits(value) {
  if (value >= 100) return Math.round(value).toString();
  if (value >= 10) return value.toFixed(1).replace(/\.0$/, '');
  return value.toFixed(2).replace(/\.?0+$/, '');
}

function scaled(value, units, base) {
  let unit = 0;
  let left = value;
  while (left >= base && unit < units.length - 1) {
    left /= base;
    unit += 1;
  }
  return `${digits(left)} ${units[unit]}`.trim();
}

/** @param {number} n @returns {string} as `1.2 k` */
export const count = (n) => scaled(n ?? 0, ['', 'k', 'M', 'G', 'T'], 1000);

/** @param {number} n bytes */
export const bytes = (n) => scaled(n ?? 0, ['B', 'kB', 'MB', 'GB', 'TB', 'PB'], 1000);

/** @param {number} perSecond */
export function rate(perSecond) {
  if (!perSecond) return '0/s';
  if (perSecond < 0.1) return `${digits(perSecond * 60)}/min`;
  return `${count(perSecond).replace(' ', '\u202f')}/s`;
}

/** @param {number | null | undefined} us microseconds */
export function micros(us) {
  if (us === null || us === undefined) return '–';
  if (us >= 1e6) return `${digits(us / 1e6)} s`;
  if (us >= 1000) return `${digits(us / 1000)} ms`;
  return `${digits(us)} µs`;
}

/** As `1 line`, `2 lines`. */
export const some = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** A share from 0 to 1. */
export function share(part) {
  if (part > 0 && part < 0.01) return '<1 %';
  if (part < 1 && part > 0.99) return '>99 %';
  return `${Math.round(part * 100)} %`;
}

/** @param {number} seconds a time span */
export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

const two = (n) => String(n).padStart(2, '0');
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** @param {number} seconds since 1970; in the time zone of the browser. */
export function time(seconds, { exact = true } = {}) {
  const t = new Date(seconds * 1000);
  const clock = `${two(t.getHours())}:${two(t.getMinutes())}`;
  return `${t.getDate()} ${MONTHS[t.getMonth()]} ${clock}${exact ? `:${two(t.getSeconds())}` : ''}`;
}

/** @param {number} ns nanoseconds since 1970 */
export const timeOfNs = (ns) => time(ns / 1e9);

/** How long ago. */
export function ago(seconds, now = Date.now() / 1000) {
  return `${span(Math.max(0, now - seconds))} ago`;
}

/** An executable and arguments on one line. */
export function command(process) {
  const args = (process.args ?? []).slice(1).join(' ');
  return plain(`${process.exe ?? `[${process.comm ?? ''}]`}${args ? ` ${args}` : ''}`);
}

/** One end of a flow of the past. */
export function end(of) {
  if (of.domain) return plain(of.exe ? `${of.domain}:${of.exe}` : of.domain);
  if (of.address) return of.prefix === undefined ? of.address : `${of.address}/${of.prefix}`;
  return '(others)';
}
