// SPDX-License-Identifier: GPL-3.0-only
// A daemon for the page: its files as they are in the tree, with the headers that policyd gives, and answers as a small shop's or
// a large host's would be.

import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { large } from './large.js';

const root = new URL('../../policyd/web/', import.meta.url);
/** The moment at which the answers were given, seconds since 1970. */
export const NOW = 1772452800;

const headers = Object.fromEntries(
  readFileSync(new URL('headers', root), 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(': ')),
);
const kinds = { html: 'text/html', css: 'text/css', js: 'text/javascript', svg: 'image/svg+xml' };
/** The same letters on every machine, for screenshots. */
const FONTS = ':root { --font: "DejaVu Sans", sans-serif; --mono: "DejaVu Sans Mono", monospace; }\n';

function file(name, library) {
  if (!/^[a-z-]+\.(html|css|js|svg)$/.test(name)) return null;
  if (name === 'cytoscape.js' && !library) return Buffer.from('export default null;');
  const path = name === 'cytoscape.js' ? 'node_modules/cytoscape/dist/cytoscape.esm.min.mjs' : `page/${name}`;
  try {
    return readFileSync(new URL(path, root));
  } catch {
    return null;
  }
}

const answer = (name) => JSON.parse(readFileSync(new URL(`answers/${name}.json`, import.meta.url), 'utf8'));

/** Answers of a host with a shop on it. */
export function shop() {
  const sets = answer('sets');
  const past = answer('past');
  return {
    '/v1/status': () => answer('status'),
    '/v1/domains': () => answer('domains'),
    '/v1/signals': () => answer('signals'),
    '/v1/flows': (query) => answer('flows').filter((f) => !query.get('domain') || f.domain === query.get('domain')),
    '/v1/threats': () => answer('threats'),
    '/v1/threats/rules': () => [
      { id: 'reverse-shell', severity: 'alert', technique: 'T1059.004', about: 'A shell on a socket', benign: 'nobody' },
    ],
    '/v1/routes': () => answer('routes'),
    '/v1/policies': () => answer('policies'),
    '/v1/history': () => answer('history'),
    '/v1/flows/history': (query) => pastOf(past, query),
    '/v1/events': (query) =>
      answer('events').filter((e) => e.seq > Number(query.get('after') ?? 0) && query.get('kind').split(',').includes(e.kind)),
    processes: () => answer('processes'),
    generation: (number) => sets.find((s) => s.generation === number),
  };
}

/** The past is quieter the older it is. */
function pastOf(past, query) {
  const [since, until] = [Number(query.get('since')), Number(query.get('until'))];
  const old = since < NOW - 1800;
  return { ...past, since, until, flows: old ? past.flows.slice(0, 3) : past.flows, all: old ? 3 : past.flows.length };
}

/** Answers of a host with 500 services. */
export const many = () => ({ ...shop(), ...large(NOW) });

/**
 * Serves until closed.
 * @returns {Promise<{ address: string, answers: any, asked: { method: string, path: string }[], library: boolean, close: () => void }>} `answers` may be changed; without `library` nothing draws
 */
export async function serve(answers) {
  const daemon = { address: '', answers, asked: [], library: true, close: () => server.close() };
  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://daemon');
    daemon.asked.push({ method: request.method, path: request.url });
    const send = (status, kind, body) => {
      response.writeHead(status, { ...headers, 'content-type': kind, 'cache-control': 'no-store' });
      response.end(body);
    };
    const refuse = (status, error) => send(status, 'application/json', JSON.stringify({ error }));
    if (request.method !== 'GET') return refuse(405, 'nothing is changed here');
    const name = url.pathname === '/' ? 'index.html' : url.pathname.startsWith('/web/') ? url.pathname.slice(5) : null;
    if (name) {
      const body = file(name, daemon.library);
      if (!body) return refuse(404, `no file ${name}`);
      return send(200, kinds[name.split('.').at(-1)], name === 'app.css' ? Buffer.concat([body, Buffer.from(FONTS)]) : body);
    }
    const [, , first, second, third] = url.pathname.split('/');
    let value;
    if (first === 'domains' && third === 'processes') value = daemon.answers.processes?.(decodeURIComponent(second));
    else if (first === 'history' && second) value = daemon.answers.generation?.(Number(second));
    else value = daemon.answers[url.pathname]?.(url.searchParams);
    if (value === undefined) return refuse(404, `there is no ${url.pathname} here; tool and daemon may be of different versions`);
    if (value instanceof Error) return refuse(503, value.message);
    if (url.pathname === '/v1/events')
      return send(200, 'application/x-ndjson', value.map((e) => `${JSON.stringify(e)}\n`).join(''));
    return send(200, 'application/json', JSON.stringify(value));
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  daemon.address = `http://127.0.0.1:${server.address().port}`;
  return daemon;
}
