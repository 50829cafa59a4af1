// SPDX-License-Identifier: GPL-3.0-only
// Asking policyd, and asking again. Nothing here changes anything: there are GETs alone.

/** An answer that is none. */
export class Refused extends Error {
  /** @param {number} status 0 where nobody answered */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const PATIENCE_MS = 30_000;

async function ask(path, signal) {
  let response;
  try {
    response = await fetch(path, {
      credentials: 'same-origin',
      cache: 'no-store',
      signal: signal ?? AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    throw new Refused(
      0,
      error.name === 'TimeoutError'
        ? 'policyd does not answer'
        : 'policyd cannot be reached; does it, or `xmesh web`, still run?',
    );
  }
  if (response.ok) return response;
  let why = `policyd answered ${response.status}`;
  try {
    why = (await response.json()).error ?? why;
  } catch {
    // Not policyd's own words; the status has to do.
  }
  throw new Refused(response.status, why);
}

/** Asks for JSON. */
export async function get(path, signal) {
  const response = await ask(path, signal);
  return response.json();
}

/** Asks for a list that comes in parts, at most so many items; where there are more it is `cut`. */
export async function list(path, most) {
  const items = [];
  let next = path;
  while (next && items.length < most) {
    const response = await ask(next);
    items.push(...(await response.json()));
    const link = /<([^>]*)>;\s*rel="next"/.exec(response.headers.get('link') ?? '');
    next = link ? path.split('?')[0] + link[1] : null;
  }
  const cut = next !== null || items.length > most;
  return Object.assign(items.slice(0, most), { cut });
}

/** Asks for lines of JSON that have an end. */
export async function lines(path) {
  const text = await (await ask(path)).text();
  return text
    .split('\n')
    .filter((line) => line.trim())
    .map((line) => JSON.parse(line));
}

/** The query of what is there. */
export function query(values) {
  const parts = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== '');
  return parts.length ? `?${parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&')}` : '';
}

/** Pausing, for all. */
export const polling = { paused: false };
const all = new Set();

/** Goes on with whatever is watched. */
export function resume() {
  for (const source of all) source.wake();
}

document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && resume());

/**
 * Something that is asked for again and again while somebody watches it, the tab is seen and nobody has paused. What was
 * there stays when an answer does not come.
 */
export class Source {
  /** @param {() => Promise<any>} question @param {number} seconds between questions */
  constructor(question, seconds) {
    this.question = question;
    this.seconds = seconds;
    this.value = undefined;
    /** @type {Refused | null} */
    this.error = null;
    /** When the value came, milliseconds since 1970. */
    this.at = 0;
    this.watchers = new Set();
    this.timer = 0;
    this.asking = null;
    all.add(this);
  }

  /** Calls back now and at every news; gives what ends that. */
  watch(watcher) {
    this.watchers.add(watcher);
    if (this.value !== undefined || this.error) watcher(this);
    this.wake();
    return () => {
      this.watchers.delete(watcher);
      if (!this.watchers.size) clearTimeout(this.timer);
    };
  }

  wake() {
    if (!this.watchers.size || polling.paused || document.visibilityState !== 'visible' || this.asking) return;
    const due = this.at + this.seconds * 1000 - Date.now();
    clearTimeout(this.timer);
    if (due > 50 && this.value !== undefined) this.timer = setTimeout(() => this.wake(), due);
    else void this.refresh();
  }

  /** Asks now. */
  refresh() {
    this.asking ??= this.question()
      .then(
        (value) => {
          this.value = value;
          this.error = null;
          this.at = Date.now();
        },
        (error) => {
          this.error = error instanceof Refused ? error : new Refused(-1, `the answer could not be read: ${error.message}`);
        },
      )
      .then(() => {
        this.asking = null;
        for (const watcher of [...this.watchers]) watcher(this);
        clearTimeout(this.timer);
        // What is not there now may be after an update of the daemon, which is no hurry.
        const wait = this.error ? (this.error.status === 404 ? 60 : Math.max(5, this.seconds)) : this.seconds;
        if (this.watchers.size) this.timer = setTimeout(() => (this.error ? this.retry() : this.wake()), wait * 1000);
      });
    return this.asking;
  }

  /** It is not asked any more. */
  end() {
    this.watchers.clear();
    clearTimeout(this.timer);
    all.delete(this);
  }

  retry() {
    if (this.watchers.size && !polling.paused && document.visibilityState === 'visible') void this.refresh();
  }
}

/** Most flows that are looked at. */
const FLOWS = 10_000;

/** What several views share. */
export const sources = {
  status: new Source(() => get('/v1/status'), 5),
  domains: new Source(() => get('/v1/domains'), 10),
  signals: new Source(() => get('/v1/signals?window=300'), 5),
  flows: new Source(() => list('/v1/flows?limit=5000', FLOWS), 15),
  threats: new Source(() => get('/v1/threats'), 10),
  rules: new Source(() => get('/v1/threats/rules'), 3600),
  routes: new Source(() => get('/v1/routes'), 15),
  policies: new Source(() => get('/v1/policies'), 30),
  history: new Source(() => get('/v1/history?limit=100'), 20),
};

/** Most kinds of flow of the past that are drawn, and that one answer has. */
const PAST = 5000;
const PAST_PAGE = 1000;

/** Flows of the past in some time, by kind, the most frequent first. */
export async function past(since, until, signal) {
  const whole = { since, until, all: 0, flows: [] };
  let skip = 0;
  while (skip !== null && whole.flows.length < PAST) {
    const part = await get(`/v1/flows/history${query({ since, until, limit: PAST_PAGE, skip: skip || undefined })}`, signal);
    whole.flows.push(...part.flows);
    Object.assign(whole, { since: part.since, until: part.until, all: part.all });
    skip = part.next ?? null;
  }
  return whole;
}
