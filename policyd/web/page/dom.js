// SPDX-License-Identifier: GPL-3.0-only
// Elements. What comes from guests only ever becomes a text node or the value of a plain attribute.

/**
 * Makes an element.
 * @param {string} tag
 * @param {Record<string, any>} [attributes] `on` has listeners by event; false and null leave an attribute out, true leaves it empty.
 * @param {...(Node | string | number | null | undefined | false | Array)} children
 * @returns {any}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  put(element, children);
  return element;
}

/** Appends children, flat; strings become text. */
export function put(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Gives an element other children. */
export function refill(element, ...children) {
  element.replaceChildren();
  return put(element, children);
}

/** Says something to who listens to the page. */
export function announce(text) {
  const live = document.getElementById('live');
  if (live && live.textContent !== text) live.textContent = text;
}

/** A sentence where there is nothing else to show. */
export function note(text, kind = 'note') {
  return el('p', { class: kind }, text);
}

/** A word with a colour and a sign, so that neither is needed alone. */
export function chip(kind, text) {
  const signs = {
    allow: '✓',
    deny: '✕',
    part: '◐',
    alert: '▲',
    warning: '◆',
    notice: '●',
    ok: '✓',
    off: '○',
    slow: '◷',
    info: 'i',
  };
  return el(
    'span',
    { class: `chip ${kind}` },
    el('span', { 'aria-hidden': 'true' }, signs[kind.split(' ')[0]] ?? '●'),
    ' ',
    text,
  );
}

/** A list of terms. */
export function facts(pairs) {
  const list = el('dl', { class: 'facts' });
  for (const [term, value] of pairs) {
    if (value === null || value === undefined || value === '') continue;
    list.append(el('div', {}, el('dt', {}, term), el('dd', {}, value)));
  }
  return list;
}
