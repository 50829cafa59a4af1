// SPDX-License-Identifier: GPL-3.0-only
// How the map looks. Colours are those of the style sheet; what a verdict is, is told by the line and its end as well.

import { SIZES } from './layout.js';

const COLOURS = [
  'text',
  'muted',
  'surface',
  'raised',
  'border',
  'accent',
  'allow',
  'part',
  'deny',
  'idle',
  'slow',
  'alert',
  'service',
  'domain',
  'world',
  'map',
];

/** Colours of the theme as the canvas wants them. */
function colours() {
  const probe = document.createElement('span');
  document.body.append(probe);
  const all = {};
  for (const name of COLOURS) {
    probe.style.color = `var(--${name})`;
    all[name] = getComputedStyle(probe).color;
  }
  all.font = getComputedStyle(document.body).fontFamily;
  probe.remove();
  return all;
}

/** How elements look, in the theme that the page has now. */
export function style() {
  const c = colours();
  const verdict = (name, line, arrow) => [
    {
      selector: `edge[verdict = "${name}"]`,
      style: { 'line-color': c[name], 'target-arrow-color': c[name], 'line-style': line, 'target-arrow-shape': arrow },
    },
  ];
  return [
    {
      selector: 'node',
      style: {
        shape: 'round-rectangle',
        width: SIZES.node.width,
        height: SIZES.node.height,
        'background-color': c.surface,
        'border-width': 1.5,
        'border-color': c.service,
        color: c.text,
        label: 'data(label)',
        'font-family': c.font,
        'font-size': 13,
        'text-valign': 'center',
        'text-max-width': SIZES.node.width - 14,
        'text-wrap': 'ellipsis',
        'min-zoomed-font-size': 6,
        'overlay-opacity': 0,
      },
    },
    { selector: 'node[kind = "domain"]', style: { shape: 'ellipse', 'border-color': c.domain, color: c.muted } },
    { selector: 'node[kind = "vm"]', style: { 'background-color': c.raised, 'border-color': c.domain, 'font-weight': 600 } },
    { selector: 'node[kind = "world"]', style: { shape: 'octagon', 'border-color': c.world, 'font-weight': 600 } },
    { selector: 'node[kind = "others"]', style: { shape: 'diamond', 'border-color': c.world, 'border-style': 'dashed' } },
    {
      selector: 'node[kind = "box"]',
      style: {
        'background-color': c.raised,
        'background-opacity': 0.75,
        'border-color': c.border,
        'border-width': 1,
        padding: '14px',
        color: c.muted,
        'text-valign': 'top',
        'text-margin-y': -4,
        'font-size': 12,
        'font-weight': 600,
        shape: 'round-rectangle',
        'min-zoomed-font-size': 5,
        'text-max-width': 400,
      },
    },
    { selector: 'node[?alert]', style: { 'border-color': c.alert, 'border-width': 3 } },
    {
      selector: 'edge',
      style: {
        width: 'data(width)',
        'curve-style': 'bezier',
        'arrow-scale': 1,
        'font-family': c.font,
        'font-size': 11,
        color: c.text,
        'text-background-color': c.map,
        'text-background-opacity': 0.9,
        'text-background-padding': '2px',
        'text-background-shape': 'round-rectangle',
        'min-zoomed-font-size': 7,
        'overlay-opacity': 0,
        'text-wrap': 'wrap',
      },
    },
    ...verdict('allow', 'solid', 'triangle'),
    ...verdict('part', 'dashed', 'triangle'),
    ...verdict('deny', 'dotted', 'tee'),
    ...verdict('idle', 'solid', 'vee'),
    { selector: 'edge[verdict = "idle"]', style: { opacity: 0.6 } },
    { selector: 'edge[?slow]', style: { 'underlay-color': c.slow, 'underlay-opacity': 0.35, 'underlay-padding': 5 } },
    { selector: 'edge.crowd[verdict = "allow"], edge.crowd[verdict = "idle"]', style: { opacity: 0.4, 'arrow-scale': 0.8 } },
    {
      selector: 'edge.crowd[verdict = "part"], edge.crowd[verdict = "deny"], edge.crowd[?slow]',
      style: { opacity: 1, 'z-index': 5 },
    },
    { selector: 'node.crowd[kind = "box"]', style: { 'font-size': 30, color: c.text } },
    { selector: 'node.crowd[kind = "vm"]', style: { 'font-size': 22 } },
    { selector: 'edge.straight', style: { 'curve-style': 'straight' } },
    { selector: 'edge.labelled, edge.near, edge:selected', style: { label: 'data(label)' } },
    { selector: '.faint', style: { opacity: 0.25 } },
    { selector: 'node.near', style: { 'border-width': 2.5 } },
    { selector: 'node:selected', style: { 'border-color': c.accent, 'border-width': 4 } },
    { selector: 'edge:selected', style: { 'line-color': c.accent, 'target-arrow-color': c.accent, 'z-index': 10 } },
  ];
}
