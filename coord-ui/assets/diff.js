// Differences between two versions, as the server tells them, and between two texts, line by line.

import { getDiff } from './api.js';
import { button, dim, el, visible } from './dom.js';
import { plural } from './format.js';

/**
 * A place for something that has to be asked for first: says that it is on its way, or what went
 * wrong, and lets the person try again.
 */
export function arriving(request, build) {
  const node = el('div', { class: 'arriving' });
  const start = async () => {
    node.replaceChildren(el('p', { class: 'dim' }, 'Loading…'));
    try {
      node.replaceChildren(...build(await request()));
    } catch (error) {
      node.replaceChildren(el('p', { class: 'notice bad' }, error.message, ' ',
        button('Try again', start)));
    }
  };
  start();
  return node;
}

/** What changed in a document between two versions. */
export function changes(key, from, to) {
  return arriving(() => getDiff(key, from, to), changesNodes);
}

function changesNodes(list) {
  if (list.length === 0) return [el('p', { class: 'dim' }, 'They are the same.')];
  return list.map(changeNode);
}

function changeNode(change) {
  const { path, before, after, hidden } = change;
  const [sign, word] = signOf(change);
  const head = el('p', { class: 'path' }, el('span', { class: `sign ${word}` }, `${sign} ${word}`),
    ' ', path === '' ? dim('the whole document') : el('bdi', { class: 'name' }, ...visible(path)));
  if (hidden) return el('div', { class: 'change' }, head, dim('a secret: its values are not told'));
  return el('div', { class: 'change' }, head, linesNode(valueChanges(change, before, after)));
}

function valueChanges(change, before, after) {
  if (!('before' in change)) return signed('+', valueText(after).split('\n'));
  if (!('after' in change)) return signed('-', valueText(before).split('\n'));
  return folded(compared(valueText(before), valueText(after)));
}

function signOf(change) {
  if (change.hidden) return ['~', 'changed'];
  if (!('before' in change)) return ['+', 'added'];
  return 'after' in change ? ['~', 'changed'] : ['−', 'removed'];
}

/** JSON, but for a text of several lines, which is easier to read as it is. */
function valueText(value) {
  const lines = typeof value === 'string' && value.includes('\n');
  return lines ? value : JSON.stringify(value, null, 2);
}

/** The difference between two texts, with a few lines around what changed. */
export function lineChanges(before, after) {
  return linesNode(folded(compared(before, after)));
}

const WORDS = { '+': 'added', '-': 'removed', ' ': 'same', '…': 'folded' };

function linesNode(lines) {
  const nodes = lines.map(({ sign, line }) => el('div', { class: `line ${WORDS[sign]}` },
    el('span', { class: 'sign' }, sign), el('span', {}, ...visible(line, true))));
  const attributes = { class: 'lines', tabindex: '0', role: 'group', 'aria-label': 'Lines' };
  return el('div', attributes, ...nodes);
}

const MOST_CELLS = 4_000_000;

/** Which lines stayed, went and came: by the longest common subsequence of what is not the same. */
function compared(oldText, youngText) {
  const ended = oldText.endsWith('\n') && youngText.endsWith('\n');
  const [before, after] = [oldText, youngText]
    .map((text) => (ended ? text.slice(0, -1) : text).split('\n'));
  const shorter = Math.min(before.length, after.length);
  let start = 0;
  while (start < shorter && before[start] === after[start]) start += 1;
  let end = 0;
  while (end < shorter - start && before.at(-1 - end) === after.at(-1 - end)) end += 1;
  const old = before.slice(start, before.length - end);
  const young = after.slice(start, after.length - end);
  return [
    ...signed(' ', before.slice(0, start)),
    ...middle(old, young),
    ...signed(' ', before.slice(before.length - end)),
  ];
}

function signed(sign, lines) {
  return lines.map((line) => ({ sign, line }));
}

function middle(old, young) {
  // Two large texts with little in common: the whole table would take too long.
  if (old.length * young.length > MOST_CELLS) return [...signed('-', old), ...signed('+', young)];
  const longest = commonLengths(old, young);
  const out = [];
  let i = 0;
  let j = 0;
  while (i < old.length || j < young.length) {
    if (i < old.length && j < young.length && old[i] === young[j]) {
      out.push({ sign: ' ', line: old[i] });
      i += 1;
      j += 1;
    } else if (i < old.length && (j === young.length || longest[i + 1][j] >= longest[i][j + 1])) {
      out.push({ sign: '-', line: old[i] });
      i += 1;
    } else {
      out.push({ sign: '+', line: young[j] });
      j += 1;
    }
  }
  return out;
}

/** `[i][j]`: how many lines the rest of `old` from i and of `young` from j have in common. */
function commonLengths(old, young) {
  const rows = Array.from({ length: old.length + 1 }, () => new Uint32Array(young.length + 1));
  for (let i = old.length - 1; i >= 0; i -= 1) {
    for (let j = young.length - 1; j >= 0; j -= 1) {
      rows[i][j] = old[i] === young[j] ? rows[i + 1][j + 1] + 1
        : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
  }
  return rows;
}

const AROUND = 3;

/** Leaves out the lines that are the same and far from any change. */
function folded(lines) {
  const near = new Set();
  lines.forEach(({ sign }, index) => {
    if (sign === ' ') return;
    for (let i = index - AROUND; i <= index + AROUND; i += 1) near.add(i);
  });
  const out = [];
  let skipped = 0;
  const fold = () => {
    if (skipped > 0) out.push({ sign: '…', line: `${plural(skipped, 'line')} the same` });
    skipped = 0;
  };
  lines.forEach((line, index) => {
    if (!near.has(index)) {
      skipped += 1;
      return;
    }
    fold();
    out.push(line);
  });
  fold();
  return out;
}
