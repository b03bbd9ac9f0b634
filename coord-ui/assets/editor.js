// The editor of a configuration document. What is typed outlives every update, a conflict, and
// going elsewhere on the page; only the person discards it.

import { askSave } from './actions.js';
import { ask } from './ask.js';
import { changes, lineChanges } from './diff.js';
import { button, code, el, show } from './dom.js';
import { plain, plural, unseenIn } from './format.js';

export const HIDDEN = '«hidden»';

// By key: what was typed, the text and version that it began from, and the reason given for it.
const drafts = new Map();

export function hasDraft(key) {
  return drafts.has(key);
}

window.addEventListener('beforeunload', (event) => {
  if (drafts.size > 0) event.preventDefault();
});

/** @param {{key: string, leave: Function}} place `leave` shows the document again */
export function makeEditor({ key, leave }) {
  const area = el('textarea', { spellcheck: 'false', 'aria-label': 'Text of the document' });
  const conflict = el('div', { class: 'conflict' });
  const hints = el('div', { class: 'hints' });
  const save = button('Review and save…', review, { class: 'main' });
  const node = el('div', { class: 'editor' }, conflict, area, hints,
    el('p', { class: 'buttons' }, button('Discard', discard), save));
  let draft = null;
  let latest = null;
  let present = null; // The version that is known to stand there now.

  area.addEventListener('input', () => {
    draft.text = area.value;
    if (isTouched()) drafts.set(key, draft);
    else drafts.delete(key);
    draw();
  });

  // A textarea makes line feeds of carriage returns: that alone is no change by the person.
  function isTouched() {
    return draft.text !== lineFeeds(draft.original);
  }

  function start(row) {
    draft = { base: row.version, original: row.text, text: lineFeeds(row.text), note: '' };
    area.value = draft.text;
    area.rows = Math.min(32, Math.max(8, draft.text.split('\n').length + 1));
  }

  function update(row) {
    latest = row;
    present = row.version;
    if (draft === null && drafts.has(key)) {
      draft = drafts.get(key);
      area.value = draft.text;
      area.rows = 24;
    } else if (draft === null || (row.version !== draft.base && !isTouched())) {
      start(row);
    }
    draw();
  }

  function draw() {
    show(hints, hintsFor(draft, latest), (list) => list.map((text) => el('p', {}, text)));
    show(conflict, [draft.base, present], () => (draft.base === present ? [] : conflictNodes()));
    save.disabled = !isTouched();
  }

  function conflictNodes() {
    const place = el('div');
    const [from, to] = [draft.base, present];
    return [el('div', { class: 'notice bad' },
      el('p', {}, 'It is version ', code(to), ' now, and you started from ', code(from),
        '. Your text is kept.'),
      el('p', { class: 'buttons' },
        button('Look at what changed', () => place.replaceChildren(changes(key, from, to))),
        button(`Go on from ${to}`, rebase)),
      place)];
  }

  /** From here on, saving replaces what stands there now. */
  function rebase() {
    draft.base = present;
    if (latest.version === present) draft.original = latest.text;
    draw();
    area.focus();
  }

  function review() {
    askSave({
      key,
      text: draft.text,
      expected: draft.base,
      note: draft.note,
      review: reviewNodes(draft, latest),
      kept: (note) => { draft.note = note; },
      saved: drop,
      conflict: (current) => {
        present = current ?? present;
        draw();
      },
    });
  }

  function discard() {
    if (!isTouched()) {
      drop();
      return;
    }
    ask({
      title: 'Discard what you typed?',
      body: [el('p', {}, 'It cannot be brought back.')],
      submit: 'Discard it',
      style: 'danger',
      act: drop,
    });
  }

  function drop() {
    drafts.delete(key);
    leave();
  }

  return { node, update };
}

function lineFeeds(text) {
  return text.replace(/\r\n?/g, '\n');
}

/** What the person ought to know about the text while typing. */
function hintsFor({ original, text }, { kind, hidden }) {
  const hints = [];
  if (hidden > 0) {
    hints.push(`${HIDDEN} stands for a secret: where you leave it as it is, ` +
      'the secret stays as it is.');
  }
  if (isJson(kind)) hints.push(jsonHint(text));
  if (original.includes('\r')) hints.push('Its carriage returns become line feeds when you save.');
  const unseen = unseenIn(text);
  if (unseen > 0) {
    hints.push(`${plural(unseen, 'character')} of it cannot be seen here.`);
  }
  return hints;
}

function jsonHint(text) {
  const trouble = jsonTrouble(text);
  return trouble === null ? 'It is valid JSON.' : `This is no JSON: ${trouble}`;
}

/** Whether the server takes nothing but JSON: where it is that now, or is nothing. */
function isJson(kind) {
  return kind === 'json' || kind === 'absent';
}

function jsonTrouble(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return plain(error.message);
  }
}

/** What is about to be saved, compared with what it began from. */
function reviewNodes({ base, original, text }, { kind }) {
  const lost = count(original, HIDDEN) - count(text, HIDDEN);
  const nodes = [
    el('p', {}, 'Compared with version ', code(base), ':'),
    el('div', { class: 'review' }, lineChanges(lineFeeds(original), text)),
  ];
  if (lost > 0) {
    nodes.push(el('p', { class: 'notice bad' },
      `${plural(lost, 'secret')} ${lost === 1 ? 'is' : 'are'} gone from the text.`));
  }
  if (isJson(kind) && jsonTrouble(text) !== null) {
    nodes.push(el('p', { class: 'notice bad' }, 'This is no JSON, and will be refused.'));
  }
  return nodes;
}

function count(text, part) {
  return text.split(part).length - 1;
}
