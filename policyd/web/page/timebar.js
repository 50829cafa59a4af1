// SPDX-License-Identifier: GPL-3.0-only
// The slider over the past: which time the map is of, and playing it.

import { announce, el } from './dom.js';
import { span, time } from './format.js';

/** What the slider reaches over, in steps of which size; seconds. */
const SCALES = [
  { label: 'hour, by minutes', reach: 3600, step: 60 },
  { label: 'day, by ten minutes', reach: 86_400, step: 600 },
  { label: 'week, by hours', reach: 7 * 86_400, step: 3600 },
  { label: 'quarter, by days', reach: 90 * 86_400, step: 86_400 },
];
/** How long each step is shown, ms. */
const BEAT = 1200;

/**
 * @param {(when: { since: number, until: number } | null) => Promise<void>} go null is now; is done once the map shows it
 */
export function timebar(go) {
  let scale = SCALES[0];
  let now = Math.floor(Date.now() / 1000);
  let playing = 0;
  let marks = [];
  const steps = () => Math.round(scale.reach / scale.step);

  const slider = el('input', {
    type: 'range',
    min: 0,
    step: 1,
    id: 'time',
    'aria-label': 'Time that the map shows',
    on: {
      input: () => {
        stop();
        moved();
      },
    },
  });
  const shown = el('output', { for: 'time', class: 'when' });
  const play = el('button', { type: 'button', class: 'play', on: { click: () => (playing ? stop() : start()) } });
  const live = el('button', { type: 'button', class: 'quiet', on: { click: toLive } }, 'Now');
  const back = el(
    'button',
    { type: 'button', class: 'quiet', 'aria-label': 'One step back', on: { click: () => stepBy(-1) } },
    '‹',
  );
  const on = el('button', { type: 'button', class: 'quiet', 'aria-label': 'One step on', on: { click: () => stepBy(1) } }, '›');
  const reach = el(
    'select',
    {
      on: {
        change: () => {
          scale = SCALES[Number(reach.value)];
          reset();
        },
      },
    },
    SCALES.map((s, i) => el('option', { value: i }, s.label)),
  );
  const ticks = el('div', { class: 'ticks', 'aria-hidden': 'true' });
  const element = el(
    'section',
    { class: 'timebar', 'aria-label': 'Replay' },
    el('div', { class: 'buttons' }, back, play, on, live),
    el('div', { class: 'track' }, slider, ticks),
    shown,
    el('label', { class: 'inline' }, 'Last ', reach),
  );

  /** The time of a step; null for now. */
  function at(step) {
    if (step >= steps()) return null;
    const end = Math.floor(now / scale.step) * scale.step;
    const since = end - (steps() - step) * scale.step;
    return { since, until: since + scale.step };
  }

  function say(when) {
    const text = when ? `${time(when.since, { exact: false })} – ${time(when.until, { exact: false }).split(' ').at(-1)}` : 'now';
    shown.textContent = when ? `${text} (${span(when.until - when.since)})` : 'now, live';
    slider.setAttribute('aria-valuetext', text);
    element.classList.toggle('past', Boolean(when));
    live.disabled = !when;
  }

  function moved() {
    const when = at(Number(slider.value));
    say(when);
    return go(when);
  }

  function reset() {
    stop();
    now = Math.floor(Date.now() / 1000);
    slider.max = String(steps());
    slider.value = slider.max;
    drawMarks();
    void moved();
  }

  function toLive() {
    stop();
    reset();
    slider.focus();
    announce('the map shows now');
  }

  function stepBy(n) {
    stop();
    slider.value = String(Number(slider.value) + n);
    void moved();
  }

  function button() {
    play.textContent = playing ? '❚❚' : '▶';
    play.setAttribute('aria-label', playing ? 'Stop playing' : 'Play the past');
  }

  function stop() {
    if (!playing) return;
    clearTimeout(playing);
    playing = 0;
    button();
  }

  function start() {
    if (Number(slider.value) >= steps()) slider.value = '0';
    announce('playing');
    const beat = async () => {
      const began = Date.now();
      await moved();
      if (!playing) return;
      if (Number(slider.value) >= steps()) {
        stop();
        announce('the map shows now');
        return;
      }
      slider.value = String(Number(slider.value) + 1);
      playing = setTimeout(beat, Math.max(0, BEAT - (Date.now() - began)));
    };
    playing = setTimeout(beat, 0);
    button();
  }

  function drawMarks() {
    ticks.replaceChildren();
    for (const mark of marks) {
      const part = 1 - (now - mark.time) / scale.reach;
      if (part < 0 || part > 1) continue;
      const tick = el('span', { class: `tick ${mark.kind}`, title: mark.text });
      tick.style.left = `${(part * 100).toFixed(2)}%`;
      ticks.append(tick);
    }
  }

  function keys(event) {
    if (event.key === ' ' && event.target === slider) {
      event.preventDefault();
      play.click();
    }
  }
  element.addEventListener('keydown', keys);

  /** Shows a moment of the past: the finest scale that reaches there. */
  function jump(seconds) {
    stop();
    now = Math.floor(Date.now() / 1000);
    const index = SCALES.findIndex((s) => now - seconds < s.reach - s.step);
    const chosen = index < 0 ? SCALES.length - 1 : index;
    scale = SCALES[chosen];
    reach.value = String(chosen);
    slider.max = String(steps());
    const end = Math.floor(now / scale.step) * scale.step;
    const since = Math.floor(seconds / scale.step) * scale.step;
    slider.value = String(Math.min(steps() - 1, Math.max(0, steps() - (end - since) / scale.step)));
    drawMarks();
    return moved();
  }

  slider.max = String(steps());
  slider.value = slider.max;
  button();
  say(null);

  return {
    element,
    jump,
    stop,
    /** Moments that are worth a look: generations, threats. */
    mark(news) {
      marks = news;
      // Time goes on while the map shows now; a moment of the past stays where it is.
      if (Number(slider.value) >= steps()) now = Math.floor(Date.now() / 1000);
      drawMarks();
    },
  };
}
