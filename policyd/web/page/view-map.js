// SPDX-License-Identifier: GPL-3.0-only
// The map of services: now or at some time of the past, as a picture or as tables, with what is known of what is selected.

import { past, sources } from './api.js';
import { details } from './details.js';
import { announce, el, note } from './dom.js';
import { count, plain, rate, some } from './format.js';
import { edgeTable, legendOf, nodeTable } from './map-tables.js';
import { ServiceMap, canDraw } from './map.js';
import { boxId, byVm, empty, filtered, fromPast, fromSignals, homesOf } from './model.js';
import { trouble } from './parts.js';
import { timebar } from './timebar.js';

/** With more nodes than this a VM is one node, until somebody wants otherwise. */
const MANY = 160;
/** Where signals are not known, the map of now is of flows of so long, seconds. */
const WITHOUT_SIGNALS = 300;

/** What the user has set, for as long as the page is open. */
const kept = { text: '', only: 'all', group: 'auto', as: 'map', chosen: null };
/** A moment that another view wants shown. */
let wanted = null;

/** Has the map show a moment of the past when it is opened next. */
export function showAt(seconds) {
  wanted = seconds;
  location.hash = '#/map';
}

/** Has the map show a connection between services, by their kinds and names. */
export function showPair(from, to) {
  kept.chosen = { edge: `${from.kind}:${from.name} → ${to.kind}:${to.name}` };
  kept.group = 'service';
  location.hash = '#/map';
}

export function mapView() {
  let whole = empty();
  let shown = empty();
  let when = null;
  let pastAnswer = null;
  let map = null;
  let drawn = false;
  const stops = [];
  const known = new Map();

  const search = el('input', {
    type: 'search',
    id: 'find',
    placeholder: 'name of a service or VM',
    value: kept.text,
    on: { input: () => set('text', search.value) },
  });
  const only = select('only', [
    ['all', 'everything'],
    ['busy', 'what is busy'],
    ['denied', 'what is denied'],
    ['slow', 'what is slow'],
  ]);
  const group = select('group', [
    ['auto', 'as fits'],
    ['service', 'services in their VMs'],
    ['vm', 'one for each VM'],
  ]);
  const as = ['map', 'table'].map((way) => {
    const radio = el('input', {
      type: 'radio',
      name: 'as',
      value: way,
      checked: kept.as === way,
      on: { change: () => set('as', way) },
    });
    return el('label', { class: 'choice' }, radio, way === 'map' ? 'Map' : 'Tables');
  });
  const summary = el('p', { class: 'summary', id: 'map-summary' });
  const canvas = el('div', {
    class: 'canvas',
    id: 'canvas',
    tabindex: '0',
    role: 'application',
    'aria-roledescription': 'map',
    'aria-describedby': 'map-summary',
    'aria-label':
      'Map of services. Arrow keys move between services, E goes through their connections, Enter opens the details, plus and minus zoom, 0 shows all. Tables have the same.',
  });
  const zooms = el(
    'div',
    { class: 'zooms' },
    zoom('+', 'Zoom in', () => map?.zoom(1.3)),
    zoom('−', 'Zoom out', () => map?.zoom(1 / 1.3)),
    zoom('⤢', 'Show all', () => map?.fit()),
  );
  const legend = legendOf();
  const nodes = nodeTable((id) => choose({ node: id }, true));
  const edges = edgeTable((id) => choose({ edge: id }, true));
  const tables = el('div', { class: 'tables', id: 'tables' }, edges.element, nodes.element);
  const hint = el(
    'p',
    { class: 'hint', 'aria-hidden': 'true' },
    'arrows: from service to service · E: its connections · Enter: details · + − 0: zoom',
  );
  const noLibrary = el(
    'div',
    { class: 'canvas-less' },
    note(
      'This policyd was built without the library that draws the map; the tables have all of it. `cargo xtask web` fetches the library, and a build after that has the map.',
    ),
  );
  const picture = el('div', { class: 'picture' }, canDraw ? [canvas, zooms, legend, hint] : noLibrary);
  const side = details({ close: () => choose(null, false), choose: (what) => choose(what, true), only: inside });
  const troubles = trouble('golden signals (/v1/signals)', 'The map is of the flows of the last minutes, without latencies.');
  const pastTroubles = trouble('the history of flows');
  const bar = timebar(go);
  const stage = el('div', { class: 'stage' }, picture, tables, side.element);
  const element = el(
    'div',
    { class: 'map-view' },
    el('h1', { tabindex: '-1', class: 'visually-hidden' }, 'Map of services'),
    el(
      'div',
      { class: 'toolbar', role: 'search' },
      el('label', { class: 'inline', for: 'find' }, 'Find', search),
      el('label', { class: 'inline' }, 'Show', only),
      el('label', { class: 'inline' }, 'Nodes', group),
      el('fieldset', { class: 'choices' }, el('legend', { class: 'visually-hidden' }, 'Show as'), as),
      summary,
    ),
    troubles.element,
    pastTroubles.element,
    stage,
    bar.element,
  );

  function select(name, options) {
    const box = el(
      'select',
      { id: `map-${name}`, on: { change: () => set(name, box.value) } },
      options.map(([value, text]) => el('option', { value, selected: kept[name] === value }, text)),
    );
    return box;
  }

  function zoom(sign, label, act) {
    return el('button', { type: 'button', 'aria-label': label, title: label, on: { click: act } }, sign);
  }

  function set(name, value) {
    kept[name] = value;
    show();
    // What is left is shown whole, unless somebody has moved the map by hand.
    if (map && !map.moved) map.fit();
    if (name === 'text' || name === 'only')
      announce(`${some(shown.nodes.size, 'node')}, ${some(shown.edges.size, 'connection')}`);
  }

  function homes() {
    // A service that has no flow just now is still where it was.
    for (const [service, all] of homesOf(sources.flows.value, pastAnswer?.flows)) known.set(service, all);
    return known;
  }

  /** Makes the graph anew of what there is. */
  function gather() {
    // Which VM a service is in is known from flows: the map is not drawn twice.
    if (!sources.flows.value && !sources.flows.error) return;
    if (pastAnswer) whole = fromPast(pastAnswer, homes());
    else if (sources.signals.value && !(sources.signals.error?.status === 404)) {
      whole = fromSignals(sources.signals.value, homes(), sources.domains.value ?? []);
    }
    show();
  }

  function show() {
    const mode = kept.group === 'auto' ? (whole.nodes.size > MANY ? 'vm' : 'service') : kept.group;
    shown = filtered(mode === 'vm' ? byVm(whole) : whole, kept);
    const inTables = kept.as === 'table' || !canDraw;
    picture.hidden = inTables && canDraw;
    tables.hidden = !inTables;
    sum(mode);
    if (inTables) {
      nodes.update([...shown.nodes.values()].map((node) => nodeRow(node)));
      edges.update([...shown.edges.values()].map((edge) => edgeRow(edge)));
    } else draw(mode);
    side.update({ graph: shown, past: Boolean(when), chosen: kept.chosen });
  }

  function draw(mode) {
    if (!element.isConnected) return;
    map ??= new ServiceMap(canvas, (what, byKey) => chosen(what, byKey));
    const alerts = new Set((sources.threats.value?.threats ?? []).filter((t) => t.severity === 'alert').map((t) => t.domain));
    map.draw(shown, mode, alerts);
    if (!drawn && kept.chosen) map.mark(kept.chosen);
    drawn = true;
    // For tests: a picture cannot be asked what it shows.
    window.xmeshMap = map;
  }

  function sum(mode) {
    const all = [...shown.edges.values()];
    const denied = all.filter((e) => e.denied > 0).length;
    const slow = all.filter((e) => e.slow).length;
    const total = all.reduce((n, e) => n + e.rate, 0);
    const parts = [
      some(shown.nodes.size, mode === 'vm' ? 'VM' : 'service'),
      some(all.length, 'connected pair'),
      `${rate(total)} new`,
    ];
    if (denied) parts.push(`${denied} with denials`);
    if (slow) parts.push(`${slow} slow`);
    if (pastAnswer && pastAnswer.all > pastAnswer.flows.length)
      parts.push(`the ${count(pastAnswer.flows.length)} most frequent of ${count(pastAnswer.all)} kinds of flow`);
    const text = parts.join(' · ');
    if (summary.textContent !== text) summary.textContent = text;
  }

  function nodeRow(node) {
    const into = [...shown.edges.values()].filter((e) => e.to === node.id);
    const out = [...shown.edges.values()].filter((e) => e.from === node.id);
    const add = (list, name) => list.reduce((n, e) => n + e[name], 0);
    return {
      node,
      into: add(into, 'rate'),
      out: add(out, 'rate'),
      denied: add([...into, ...out], 'denied'),
      callers: into.length,
      callees: out.length,
    };
  }

  function edgeRow(edge) {
    return { edge, from: shown.nodes.get(edge.from), to: shown.nodes.get(edge.to) };
  }

  /** Of the map. */
  function chosen(what, byKey) {
    kept.chosen = what;
    side.update({ graph: shown, past: Boolean(when), chosen: what });
    if (byKey) side.focus();
  }

  /** Of tables and details. */
  function choose(what, focus) {
    kept.chosen = what;
    map?.mark(what);
    side.update({ graph: shown, past: Boolean(when), chosen: what });
    if (focus) side.focus();
    else if (!what && canDraw && kept.as === 'map') canvas.focus();
  }

  /** The services of one VM, and whom they have to do with. */
  function inside(vm) {
    group.value = 'service';
    search.value = vm;
    kept.group = 'service';
    kept.chosen = { node: boxId(vm) };
    set('text', vm);
    map?.mark(kept.chosen);
    side.focus();
  }

  let question = 0;
  let aborter = null;
  async function go(time) {
    when = time;
    aborter?.abort();
    question += 1;
    const mine = question;
    if (!time) {
      pastAnswer = null;
      pastTroubles.show({ error: null });
      element.classList.remove('past');
      if (sources.signals.error?.status === 404) await withoutSignals();
      else gather();
      return;
    }
    element.classList.add('past');
    aborter = new AbortController();
    try {
      const answer = await past(time.since, time.until, aborter.signal);
      if (mine !== question) return;
      pastAnswer = answer;
      pastTroubles.show({ error: null });
      gather();
    } catch (error) {
      if (mine !== question) return;
      pastTroubles.show({ error, value: pastAnswer ?? undefined });
    }
  }

  /** The map of now, of the last minutes of the history. */
  async function withoutSignals() {
    const now = Math.floor(Date.now() / 1000);
    const mine = question;
    try {
      const answer = await past(now - WITHOUT_SIGNALS, now);
      if (mine !== question || when) return;
      whole = fromPast(answer, homesOf(sources.flows.value, answer.flows), sources.domains.value ?? []);
      pastTroubles.show({ error: null });
      show();
    } catch (error) {
      if (mine === question) pastTroubles.show({ error, value: whole.nodes.size ? whole : undefined });
    }
  }

  return {
    title: 'Map',
    element,
    start() {
      const live = (source) => {
        if (source === sources.signals) troubles.show(source);
        if (when) return;
        if (sources.signals.error?.status !== 404) gather();
        else if (source === sources.signals || source === sources.flows) void withoutSignals();
        else show();
      };
      for (const source of [sources.signals, sources.flows, sources.domains, sources.threats]) stops.push(source.watch(live));
      const marks = () =>
        bar.mark([
          ...(sources.history.value?.generations ?? []).map((g) => ({
            time: g.time_ns / 1e9,
            kind: 'at-policy',
            text: `generation ${g.generation}`,
          })),
          ...(sources.threats.value?.threats ?? []).map((t) => ({
            time: t.first_ns / 1e9,
            kind: 'at-threat',
            text: plain(t.title),
          })),
        ]);
      stops.push(sources.history.watch(marks), sources.threats.watch(marks));
      if (wanted !== null) {
        void bar.jump(wanted);
        wanted = null;
      } else gather();
    },
    retheme: () => map?.retheme(),
    stop() {
      stops.forEach((stop) => stop());
      bar.stop();
      aborter?.abort();
      question += 1;
      side.stop();
      map?.destroy();
      delete window.xmeshMap;
    },
  };
}
