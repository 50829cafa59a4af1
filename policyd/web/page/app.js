// SPDX-License-Identifier: GPL-3.0-only
// The page: which view is shown, how the daemon is, and what holds for all views.

import { polling, resume, sources } from './api.js';
import { announce, el, refill } from './dom.js';
import { plain, span } from './format.js';
import { domainView, domainsView } from './view-domains.js';
import { eventsView } from './view-events.js';
import { findingsView, routesView } from './view-findings.js';
import { mapView } from './view-map.js';
import { policyView } from './view-policy.js';
import { threatsView } from './view-threats.js';

const VIEWS = [
  { path: 'map', label: 'Map', make: mapView },
  { path: 'slow', label: 'Slow', make: findingsView, count: () => sources.signals.value?.findings.length },
  { path: 'domains', label: 'VMs', make: (name) => (name ? domainView(name) : domainsView()) },
  { path: 'threats', label: 'Threats', make: threatsView, count: () => sources.threats.value?.threats.length },
  { path: 'policy', label: 'Policy', make: policyView },
  { path: 'routes', label: 'Routes', make: routesView },
  { path: 'events', label: 'Events', make: eventsView },
];

const by = (id) => document.getElementById(id);
const main = by('main');
let current = null;

function navigate() {
  const [path = 'map', argument] = location.hash.replace(/^#\/?/, '').split('/');
  const about = VIEWS.find((view) => view.path === path) ?? VIEWS[0];
  let name;
  try {
    name = argument ? decodeURIComponent(argument) : undefined;
  } catch {
    // A `%` that begins nothing: no name of ours.
    name = argument;
  }
  const first = current === null;
  if (current?.about === about && current.view.turn) {
    current.view.turn(name);
  } else {
    current?.view.stop();
    current = { about, view: about.make(name) };
    refill(main, current.view.element);
    main.className = about.path;
    current.view.start();
    if (!first) main.querySelector('h1')?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  document.title = `${current.view.title} – xmesh`;
  for (const link of by('nav').querySelectorAll('a')) {
    if (link.dataset.path === about.path) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

function drawNav() {
  const item = (view) => {
    const badge = el('span', { class: 'badge', hidden: true });
    const link = el('a', { href: `#/${view.path}`, 'data-path': view.path }, view.label, ' ', badge);
    return { view, badge, element: el('li', {}, link) };
  };
  const items = VIEWS.map(item);
  refill(
    by('nav'),
    items.map(({ element }) => element),
  );
  let known = null;
  /** A new alert is said to who does not see the number change. */
  const alarm = (source) => {
    const alerts = (source.value?.threats ?? []).filter((t) => t.severity === 'alert');
    const news = known && alerts.find((t) => !known.has(t.title));
    if (news) announce(`alert: ${plain(news.title)}`);
    if (source.value) known = new Set(alerts.map((t) => t.title));
  };
  sources.threats.watch(alarm);
  const counts = () => {
    for (const { view, badge } of items) {
      const n = view.count?.() ?? 0;
      badge.hidden = n === 0;
      const bad = view.path === 'threats' && sources.threats.value?.threats.some((t) => t.severity === 'alert');
      badge.className = bad ? 'badge bad' : 'badge';
      if (badge.textContent !== String(n)) badge.textContent = String(n);
    }
  };
  sources.threats.watch(counts);
  sources.signals.watch(counts);
}

let wasUp = true;
function showState(source) {
  const state = by('state');
  const text = by('state-text');
  const { value, error } = source;
  state.className = `state ${error ? 'down' : polling.paused ? 'paused' : 'up'}`;
  const status = value && `generation ${value.generation} · Xen ${plain(value.xen)} · up ${span(value.uptime)}`;
  text.textContent = error ? (error.status === 403 ? 'no access' : 'no answer') : polling.paused ? 'paused' : status;
  const problems = error
    ? [`${plain(error.message)}${value ? ' What is shown is from before; the page goes on asking.' : ''}`]
    : [...(value?.store?.problems ?? []), value?.flow_history?.problem].filter(Boolean).map(plain);
  const trouble = by('trouble');
  const said = problems.join(' ');
  if (trouble.textContent !== said) trouble.textContent = said;
  trouble.hidden = problems.length === 0;
  if (wasUp && error) announce('policyd does not answer');
  if (!wasUp && !error) announce('policyd answers again');
  wasUp = !error;
}

function pause() {
  polling.paused = !polling.paused;
  by('pause').setAttribute('aria-pressed', String(polling.paused));
  by('pause').textContent = polling.paused ? 'Go on' : 'Pause';
  announce(polling.paused ? 'paused' : 'goes on');
  if (!polling.paused) resume();
  showState(sources.status);
}

const THEME = 'xmesh-theme';
const stored = {
  /** A browser may be told to keep nothing. */
  get() {
    try {
      return localStorage.getItem(THEME) ?? 'system';
    } catch {
      return 'system';
    }
  },
  set(theme) {
    try {
      localStorage.setItem(THEME, theme);
    } catch {
      // Then it holds until the page is loaded anew.
    }
  },
};

function theme(name) {
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  by('theme').value = name;
  current?.view.retheme?.();
}

theme(stored.get());
by('theme').addEventListener('change', (event) => {
  stored.set(event.target.value);
  theme(event.target.value);
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => current?.view.retheme?.());
by('pause').addEventListener('click', pause);
by('skip').addEventListener('click', (event) => {
  // The hash says which view is shown.
  event.preventDefault();
  main.focus();
});
drawNav();
addEventListener('hashchange', navigate);
sources.status.watch(showState);
navigate();
