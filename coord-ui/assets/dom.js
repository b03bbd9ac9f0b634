// Elements and their reconciliation. Everything that strangers wrote gets into the page here, and
// only as text nodes or as harmless attributes: there is no way to markup from a string.

import { brief, number, pieces, plain } from './format.js';

export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const name in attributes) {
    const value = attributes[name];
    if (value === true) node.setAttribute(name, '');
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  if (children.length > 0) node.append(...children);
  return node;
}

export function button(text, act, attributes) {
  const node = el('button', { type: 'button', ...attributes }, text);
  node.addEventListener('click', act);
  return node;
}

export function dim(...children) {
  return el('span', { class: 'dim' }, ...children);
}

export function code(value) {
  return el('code', {}, String(value));
}

/** A small word in a frame; the style only underlines what the word says. */
export function chip(text, style, title) {
  return el('span', { class: `chip ${style}`, title }, text);
}

/**
 * Gives copies of what `build` makes: much faster than to build it anew for each of 2,000 rows.
 * @template {Node} T
 * @param {() => T} build
 * @returns {() => T}
 */
export function copies(build) {
  let original = null;
  return () => {
    original ??= build();
    return original.cloneNode(true);
  };
}

const shown = new WeakMap();

/**
 * Builds the children of a node anew, but only if what they show has changed: an update which
 * changes nothing leaves focus, selection and whatever is open alone.
 */
export function show(node, value, build) {
  const print = JSON.stringify(value) ?? '';
  if (shown.get(node) === print) return;
  shown.set(node, print);
  node.replaceChildren(...build(value));
}

/** Text from strangers, as strings, with what cannot be seen made visible by elements. */
export function visible(text, breaks = false) {
  return pieces(text, breaks).map((piece) => piece.escape
    ? el('span', { class: 'escape' }, piece.text) : piece.text);
}

const LONG = 160;
const BEGINNING = 100;

/**
 * A name from strangers, isolated so that right-to-left text leaves its neighbours in place. A very
 * long one shows its beginning, and the whole of it on demand.
 */
export function label(text, href) {
  if (text === '') return linked(dim('(empty)'), href);
  if (text.length <= LONG) return linked(el('bdi', { class: 'name' }, ...visible(text)), href);
  const beginning = [...text].slice(0, BEGINNING).join('');
  return el('span', { class: 'long' },
    linked(el('bdi', { class: 'name' }, ...visible(beginning), '…'), href),
    ' ',
    el('details', {},
      el('summary', {}, `all ${number(text.length)} characters`),
      el('bdi', { class: 'name' }, ...visible(text))));
}

function linked(node, href) {
  return href === undefined ? node : el('a', { href }, node);
}

/** A name where there is room for a few words only; all of it is in the title. */
export function shortLabel(text, size = 60) {
  if (text.length <= size) return label(text);
  return el('bdi', { class: 'name', title: plain(text) }, brief(text, size));
}

const partsOf = new WeakMap();

/**
 * Makes the children of `parent` before `end` match `items`: one part for each key, kept for as
 * long as the key is there, so that focus, an open <details> and scroll positions outlive every
 * update.
 * `make(item)` gives `{node, update(item)}`.
 */
export function keyed(parent, items, keyOf, make, end = null) {
  const old = partsOf.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = freeKey(now, String(keyOf(item)));
    const part = old.get(key) ?? make(item);
    if (part.item !== item) {
      const print = JSON.stringify(item);
      if (part.print !== print) part.update(item);
      Object.assign(part, { item, print });
    }
    now.set(key, part);
  }
  for (const [key, part] of old) {
    if (!now.has(key)) part.node.remove();
  }
  // From the last to the first: what stands in its place already is not touched.
  let next = end;
  for (const { node } of [...now.values()].reverse()) {
    if (node.parentNode !== parent || node.nextSibling !== next) parent.insertBefore(node, next);
    next = node;
  }
  partsOf.set(parent, now);
}

/** Keys ought to differ; where the data says otherwise, no row gets lost. */
function freeKey(taken, key) {
  let free = key;
  for (let copy = 2; taken.has(free); copy += 1) free = `${key}\n${copy}`;
  return free;
}

/**
 * A <details> which builds its content when it is opened, and keeps both up to date.
 * `summary(value)` and `content(value)` give lists of nodes; `fill(node, value)` may take the place
 * of `content` where the content is reconciled and not rebuilt.
 */
export function disclosure(summary, content, fill = (node, value) => show(node, value, content)) {
  const head = el('summary');
  const body = el('div', { class: 'inside' });
  const node = el('details', {}, head, body);
  let latest;
  node.addEventListener('toggle', () => {
    if (node.open) fill(body, latest);
  });
  return {
    node,
    update(value) {
      latest = value;
      show(head, value, summary);
      if (node.open) fill(body, value);
    },
  };
}

let silence;

/** Says the result of an action, to the eye and to a screen reader. */
export function say(text) {
  announce(text);
  const box = document.getElementById('said');
  box.replaceChildren(text);
  box.hidden = false;
  clearTimeout(silence);
  silence = setTimeout(() => { box.hidden = true; }, 8000);
}

/** Says something to a screen reader: a change of health, or the result of an action. */
export function announce(text) {
  document.getElementById('live').textContent = text;
}
