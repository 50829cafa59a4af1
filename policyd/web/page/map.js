// SPDX-License-Identifier: GPL-3.0-only
// The map as a picture. What it shows is in tables, too; here it can be walked by keys.

import cytoscape from './cytoscape.js';
import { announce } from './dom.js';
import { micros, plain, rate } from './format.js';
import { layout } from './layout.js';
import { style } from './map-style.js';
import { VERDICTS, boxId } from './model.js';

/** Whether the program was built with the library that draws. */
export const canDraw = cytoscape !== null;

/** Beyond so many edges figures stand only at those that are looked at, and lines are straight. */
const LABELLED = 40;
const CURVED = 700;
/** Beyond so many what is allowed steps back behind what is not. */
const CROWD = 150;

/** What stands at an edge. */
export function edgeLabel(edge) {
  const parts = [rate(edge.rate)];
  if (edge.p99 !== null) parts.push(`p99 ${micros(edge.p99)}`);
  if (edge.verdict === 'part') parts.push(`${Math.max(1, Math.round(edge.share * 100))} % denied`);
  if (edge.verdict === 'deny') parts.push('denied');
  return parts.join(' · ') + (edge.slow ? `\nslow: ${edge.slow.culprit} ×${edge.slow.factor.toFixed(1)}` : '');
}

/** A map in an element. */
export class ServiceMap {
  /** @param {HTMLElement} place @param {(what: { node?: string, edge?: string } | null, byKey: boolean) => void} selected */
  constructor(place, selected) {
    this.place = place;
    this.selected = selected;
    /** What was ever shown, by way of grouping, so that nothing moves when it comes back. */
    this.memory = new Map();
    this.graph = null;
    this.cy = cytoscape({
      container: place,
      elements: [],
      style: style(),
      layout: { name: 'preset' },
      minZoom: 0.04,
      maxZoom: 3,
      boxSelectionEnabled: false,
      autoungrabify: true,
      selectionType: 'single',
      hideEdgesOnViewport: false,
      textureOnViewport: false,
    });
    this.cy.on('select unselect', () => this.light());
    this.cy.on('tap', (event) => {
      if (event.target === this.cy) this.choose(null, false);
      else if (event.target.isEdge()) this.choose({ edge: event.target.id() }, false);
      else this.choose({ node: event.target.id() }, false);
    });
    this.cy.on('mouseover', 'edge', (event) => event.target.addClass('near'));
    this.cy.on('mouseout', 'edge', () => this.light());
    place.addEventListener('keydown', (event) => this.key(event));
    /** Whether it was moved by hand: then it stays. */
    this.moved = false;
    this.cy.on('dragpan scrollzoom pinchzoom', () => (this.moved = true));
    this.sized = new ResizeObserver(() => {
      this.cy.resize();
      if (!this.moved) this.fit();
    });
    this.sized.observe(place);
  }

  /** Colours of another theme. */
  retheme() {
    this.cy.style(style());
  }

  /**
   * Shows a graph. `mode`: by what it is grouped. `alerts`: names of domains with threats that are alerts.
   * @param {import('./model.js').MapGraph} graph
   */
  draw(graph, mode, alerts) {
    const memory = this.remember(graph, mode);
    const fresh = this.cy.elements().empty() || this.mode !== mode;
    this.mode = mode;
    this.graph = graph;
    const wanted = elements(graph, memory.positions, alerts);
    this.cy.batch(() => {
      // What is in another VM than before is drawn anew: it cannot change boxes.
      const stays = (element) => wanted.has(element.id()) && wanted.get(element.id()).data.parent === element.data('parent');
      this.cy
        .elements()
        .filter((element) => !stays(element))
        .remove();
      for (const [id, element] of wanted) {
        const old = this.cy.getElementById(id);
        if (old.empty()) this.cy.add(element);
        else {
          old.data(element.data);
          if (element.position && !old.isParent()) old.position(element.position);
        }
      }
      const edges = this.cy.edges();
      edges.toggleClass('labelled', edges.length <= LABELLED);
      edges.toggleClass('straight', edges.length > CURVED);
      this.cy.elements().toggleClass('crowd', edges.length > CROWD);
    });
    if (fresh) this.fit();
    this.light();
  }

  remember(graph, mode) {
    const memory = this.memory.get(mode) ?? { nodes: new Map(), edges: new Map(), positions: new Map() };
    this.memory.set(mode, memory);
    const news = [...graph.nodes.keys()].some((id) => !memory.positions.has(id));
    // A service that is known to be in a VM only now moves there.
    const moved = [...graph.nodes.values()].some(
      (node) => memory.nodes.get(node.id)?.home !== node.home && memory.nodes.has(node.id),
    );
    for (const [id, node] of graph.nodes) memory.nodes.set(id, node);
    for (const [id, edge] of graph.edges) memory.edges.set(id, edge);
    if (news || moved) memory.positions = layout(memory);
    return memory;
  }

  /** All of it. */
  fit() {
    this.moved = false;
    if (this.cy.elements().empty()) return;
    this.cy.fit(undefined, 44);
    if (this.cy.zoom() > 1.4) {
      this.cy.zoom(1.4);
      this.cy.center();
    }
  }

  zoom(factor) {
    this.moved = true;
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }

  /** Selects without telling. */
  mark(what) {
    this.cy.elements(':selected').unselect();
    const id = what?.node ?? what?.edge;
    if (id) this.cy.getElementById(id).select();
    this.light();
  }

  choose(what, byKey) {
    this.mark(what);
    this.selected(what, byKey);
  }

  /** What has to do with what is selected stands out. */
  light() {
    this.cy.batch(() => {
      this.cy.elements().removeClass('faint near');
      const chosen = this.cy.elements(':selected');
      if (chosen.empty()) return;
      const node = chosen.nodes().union(chosen.nodes().children());
      const near = chosen.union(node).union(node.connectedEdges()).union(chosen.edges());
      const whole = near.union(near.edges().connectedNodes());
      near.edges().addClass('near');
      whole.nodes().addClass('near');
      const lit = whole.union(whole.nodes().parents());
      this.cy.elements().difference(lit).not(':parent').addClass('faint');
    });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (steps[event.key]) this.walk(...steps[event.key]);
    else if (event.key === '+' || event.key === '=') this.zoom(1.25);
    else if (event.key === '-') this.zoom(0.8);
    else if (event.key === '0') this.fit();
    else if (event.key === 'e' || event.key === 'E') this.nextEdge();
    else if (event.key === 'Escape') this.choose(null, false);
    else if (event.key === 'Enter') {
      const chosen = this.cy.elements(':selected').first();
      if (chosen.empty()) return;
      this.choose(chosen.isEdge() ? { edge: chosen.id() } : { node: chosen.id() }, true);
    } else return;
    event.preventDefault();
  }

  /** To the nearest node that way. */
  walk(x, y) {
    const nodes = this.cy.nodes().filter((node) => !node.isParent());
    const now = this.cy.nodes(':selected').first();
    let best = null;
    let least = Infinity;
    const from = now.empty() ? null : now.position();
    nodes.forEach((node) => {
      const at = node.position();
      if (from) {
        const [dx, dy] = [at.x - from.x, at.y - from.y];
        const along = dx * x + dy * y;
        if (along < 1) return;
        const cost = along + 2.5 * Math.abs(dx * y + dy * x);
        if (cost < least) [best, least] = [node, cost];
      } else if (at.x + at.y < least) [best, least] = [node, at.x + at.y];
    });
    if (best) this.goTo(best);
  }

  goTo(node) {
    this.mark({ node: node.id() });
    this.selected({ node: node.id() }, false);
    this.show(node);
    this.tell(node);
  }

  show(element) {
    const box = element.renderedBoundingBox();
    if (box.x1 < 0 || box.y1 < 0 || box.x2 > this.cy.width() || box.y2 > this.cy.height()) this.cy.center(element);
  }

  /** From edge to edge of the node that was selected last. */
  nextEdge() {
    const chosen = this.cy.elements(':selected').first();
    if (chosen.empty()) return;
    const hub = chosen.isEdge() ? this.hub : chosen.id();
    this.hub = hub;
    const edges = this.cy
      .getElementById(hub)
      .connectedEdges()
      .toArray()
      .sort((a, b) => (a.id() < b.id() ? -1 : 1));
    if (!edges.length) return;
    const at = edges.findIndex((edge) => edge.id() === chosen.id());
    const edge = edges[(at + 1) % edges.length];
    this.mark({ edge: edge.id() });
    this.selected({ edge: edge.id() }, false);
    const { from, to, verdict, label } = edge.data();
    announce(`${from} to ${to}: ${VERDICTS[verdict]}, ${label}`);
  }

  tell(node) {
    const { label, kind, home } = node.data();
    const out = node.outgoers('edge').length;
    const into = node.incomers('edge').length;
    announce(`${label}, ${kind}${home ? ` in ${home}` : ''}; calls ${out}, called by ${into}`);
  }

  /** Where nodes are, for tests. */
  positions() {
    return Object.fromEntries(this.cy.nodes().map((node) => [node.id(), node.position()]));
  }

  destroy() {
    this.sized.disconnect();
    this.cy.destroy();
  }
}

function elements(graph, positions, alerts) {
  const all = new Map();
  for (const node of graph.nodes.values()) {
    if (node.home && !all.has(boxId(node.home))) {
      const id = boxId(node.home);
      all.set(id, { group: 'nodes', data: { id, kind: 'box', label: plain(node.home), alert: alerts.has(node.home) } });
    }
  }
  for (const node of graph.nodes.values()) {
    const label = node.kind === 'domain' && node.home ? 'other processes' : plain(node.label);
    all.set(node.id, {
      group: 'nodes',
      data: {
        id: node.id,
        kind: node.kind,
        label,
        home: node.home,
        parent: node.home ? boxId(node.home) : undefined,
        alert: node.kind === 'vm' && alerts.has(node.name),
      },
      position: positions.get(node.id),
    });
  }
  for (const edge of graph.edges.values()) {
    // What stays within a node is in the tables.
    if (!graph.nodes.has(edge.from) || !graph.nodes.has(edge.to) || edge.from === edge.to) continue;
    all.set(edge.id, {
      group: 'edges',
      data: {
        id: edge.id,
        source: edge.from,
        target: edge.to,
        verdict: edge.verdict,
        slow: Boolean(edge.slow),
        label: edgeLabel(edge),
        width: Math.min(7, 1.4 + Math.log10(1 + edge.rate * 20)),
        from: plain(graph.nodes.get(edge.from).label),
        to: plain(graph.nodes.get(edge.to).label),
      },
    });
  }
  return all;
}
