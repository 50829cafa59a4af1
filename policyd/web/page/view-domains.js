// SPDX-License-Identifier: GPL-3.0-only
// The VMs of this host, and one of them: its processes and their flows.

import { Source, list, sources } from './api.js';
import { announce, chip, el, facts, note, refill } from './dom.js';
import { count, plain } from './format.js';
import { domainLink, flowTable, processTable, trouble } from './parts.js';
import { table } from './table.js';

/** Degrees of sight, and whether that is all there is to see. */
const MODES = { altp2m: 'ok', breakpoint: 'ok', lookup: 'warning', vm: 'warning', off: 'off' };
const mode = (d) => chip(MODES[d.mode] ?? 'off', d.mode);

export function domainsView() {
  const troubles = trouble('the list of VMs');
  const all = table({
    caption: 'VMs of this host',
    visible: false,
    key: (d) => String(d.id),
    empty: 'There is no VM.',
    sort: 'name',
    columns: [
      { key: 'name', label: 'Name', value: (d) => plain(d.name), cell: (d) => domainLink(d.name) },
      { key: 'id', label: 'Id', number: true, value: (d) => d.id },
      { key: 'state', label: 'State', value: (d) => d.state },
      { key: 'mode', label: 'Sight', value: (d) => d.mode, cell: mode },
      { key: 'kernel', label: 'Kernel', value: (d) => plain(d.kernel ?? '–') },
      { key: 'addresses', label: 'Addresses', value: (d) => d.addresses.join(', ') },
      { key: 'processes', label: 'Processes', number: true, value: (d) => d.processes },
      { key: 'connections', label: 'Sockets', number: true, value: (d) => d.connections },
      { key: 'flows', label: 'Flows', number: true, value: (d) => d.flows },
      {
        key: 'problems',
        label: 'Problems',
        value: (d) => d.problems.length,
        cell: (d) => (d.problems.length ? chip('warning long', plain(d.problems[0])) : '–'),
      },
    ],
  });
  let stop = () => {};
  return {
    title: 'VMs',
    element: el('div', { class: 'page' }, el('h1', { tabindex: '-1' }, 'VMs'), troubles.element, all.element),
    start() {
      stop = sources.domains.watch((source) => {
        troubles.show(source);
        if (source.value) all.update(source.value);
      });
    },
    stop: () => stop(),
  };
}

/** @param {string} name */
export function domainView(name) {
  const path = `/v1/domains/${encodeURIComponent(name)}`;
  // Read from the guest's memory: not more often than somebody can read it.
  const processSource = new Source(() => list(`${path}/processes?limit=5000`, 20_000), 15);
  const flowSource = new Source(() => list(`/v1/flows?domain=${encodeURIComponent(name)}&limit=5000`, 10_000), 5);
  const stops = [];
  const about = el('div');
  const domainTrouble = trouble('the list of VMs');
  const processTrouble = trouble('processes');
  const flowTrouble = trouble('flows');
  let pid = null;
  const flows = flowTable({ domain: false });
  const chosen = el('p', { class: 'chosen', id: 'chosen' });
  const processes = processTable(
    (number) => choose(pid === number ? null : number),
    () => pid,
  );

  function choose(number) {
    pid = number;
    processes.update(processSource.value ?? []);
    showFlows();
    announce(pid === null ? 'flows of all processes' : `flows of process ${pid}: ${own().length}`);
  }

  const own = () => (flowSource.value ?? []).filter((f) => pid === null || f.who?.pid === pid);

  function showFlows() {
    const process = (processSource.value ?? []).find((p) => p.pid === pid);
    const all = el('button', { type: 'button', class: 'quiet', on: { click: () => choose(null) } }, 'Show all');
    const cut = flowSource.value?.cut && ` These are the first ${count(flowSource.value.length)}; there are more.`;
    refill(
      chosen,
      pid === null
        ? 'Of all processes. The number of a process shows its own alone.'
        : ['Of process ', el('strong', {}, pid), ' ', el('code', {}, plain(process?.exe ?? '')), ' ', all],
      cut,
    );
    if (flowSource.value) flows.update(own());
  }

  function showDomain(source) {
    domainTrouble.show(source);
    const d = source.value?.find((domain) => domain.name === name || String(domain.id) === name);
    if (!d) {
      if (source.value) refill(about, note(`There is no VM ${plain(name)} on this host now.`));
      return;
    }
    refill(
      about,
      facts([
        ['Id', d.id],
        ['State', d.state],
        ['Sight', mode(d)],
        ['Kernel', plain(d.kernel ?? '–')],
        ['vCPUs', d.vcpus],
        ['Addresses', d.addresses.join(', ')],
        ['Interfaces', d.vifs.map((v) => `${v.name}${v.covered ? '' : ' (not enforced)'}`).join(', ')],
        ['Events seen', count(d.traps)],
      ]),
      d.problems.map((problem) => el('p', {}, chip('warning', 'problem'), ' ', plain(problem))),
    );
  }

  function showThreats(source) {
    const found = (source.value?.threats ?? []).filter((t) => t.domain === name);
    refill(
      threats,
      found.length
        ? [
            el('h2', {}, 'Threats'),
            el(
              'ul',
              { class: 'plain' },
              found.map((t) => el('li', {}, chip(t.severity, t.severity), ' ', el('a', { href: '#/threats' }, plain(t.title)))),
            ),
          ]
        : [],
    );
  }
  const threats = el('div');

  return {
    title: plain(name),
    element: el(
      'div',
      { class: 'page' },
      el('p', { class: 'crumbs' }, el('a', { href: '#/domains' }, 'VMs'), ' / ', plain(name)),
      el('h1', { tabindex: '-1' }, plain(name)),
      domainTrouble.element,
      about,
      threats,
      el('div', {}, processTrouble.element, processes.element),
      el('div', {}, flowTrouble.element, chosen, flows.element),
    ),
    start() {
      stops.push(
        sources.domains.watch(showDomain),
        sources.threats.watch(showThreats),
        processSource.watch((source) => {
          processTrouble.show(source);
          if (source.value) processes.update(source.value);
          showFlows();
        }),
        flowSource.watch((source) => {
          flowTrouble.show(source);
          showFlows();
        }),
      );
    },
    stop() {
      stops.forEach((stop) => stop());
      processSource.end();
      flowSource.end();
    },
  };
}
