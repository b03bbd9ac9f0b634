// One configuration document: its text, its versions and what changed between them, and who uses
// which version now. What is looked at is in the location's hash, so that back and forward work.

import { askRollback } from './actions.js';
import { getVersion } from './api.js';
import { age } from './clock.js';
import { arriving, changes } from './diff.js';
import { button, chip, code, dim, el, keyed, label, show, visible } from './dom.js';
import { HIDDEN, hasDraft, makeEditor } from './editor.js';
import { plural } from './format.js';
import { href } from './route.js';
import { processNodes } from './table.js';

export function documentScreen(key, edit) {
  const facts = el('p', { class: 'facts-of-document' });
  const pane = el('section', { class: 'pane', 'aria-label': 'Text' });
  const uses = makeUses();
  const history = makeHistory(key, edit);
  const node = el('article', { class: 'document' }, facts,
    el('div', { class: 'columns' }, pane,
      el('div', { class: 'aside' }, uses.node, history.node)));
  let params = new URLSearchParams();
  let row = null;
  let part = null;

  function draw() {
    const what = paneOf(params, edit);
    show(pane, what, () => {
      part = makePane(key, edit, what);
      return [part.node];
    });
    part.update(row);
  }

  return {
    node,
    empty: 'There is no document with this key.',
    go(given) {
      const moved = part !== null;
      params = given;
      if (row === null) return;
      draw();
      if (moved) pane.querySelector('.pane-head').scrollIntoView({ block: 'nearest' });
    },
    update(data) {
      const [first] = data.rows;
      if (first === undefined) return;
      row = first;
      show(facts, factsOf(row), factsBuild);
      uses.update(row);
      history.update(row);
      draw();
    },
  };
}

const KINDS = { json: 'JSON', text: 'text', binary: 'binary', absent: 'no value' };

function factsOf({ version, kind, bytes, hidden, changed_since: unrecorded }) {
  return { version, kind, bytes, hidden, unrecorded };
}

function factsBuild({ version, kind, bytes, hidden, unrecorded }) {
  const facts = [KINDS[kind] ?? kind, plural(bytes, 'byte')];
  if (hidden > 0) facts.push(`${plural(hidden, 'secret')} hidden`);
  const nodes = ['Version ', code(version), dim(` · ${facts.join(' · ')}`)];
  if (unrecorded) {
    nodes.push(' ', chip('changed without a record', 'warn',
      'The present value was written without a record: nobody noted who did it, and why.'));
  }
  return nodes;
}

/** What the pane shows: ["edit"], ["changes", from, to], ["version", v] or ["now"]. */
function paneOf(params, edit) {
  if (edit && params.has('edit')) return ['edit'];
  const [from, to, version] = ['from', 'to', 'version'].map((name) => params.get(name));
  if (from !== null && to !== null) return ['changes', from, to];
  if (version !== null) return ['version', version];
  return ['now'];
}

function makePane(key, edit, [what, ...args]) {
  if (what === 'edit') return makeEditPane(key);
  if (what === 'changes') return makeChangesPane(key, ...args);
  if (what === 'version') return makeVersionPane(key, ...args);
  return makeNowPane(key, edit);
}

function paneHead(title, ...more) {
  return el('div', { class: 'pane-head' }, el('h2', {}, ...title), ...more);
}

function backLink(key) {
  return el('a', { href: href('config', key) }, 'Back to what it is now');
}

function makeNowPane(key, edit) {
  const links = el('span');
  const body = el('div');
  return {
    node: el('div', {}, paneHead(['Now'], links), body),
    update(row) {
      show(links, [edit, row.kind, hasDraft(key)], () => editLinks(key, edit, row.kind));
      show(body, [row.kind, row.text], () => textNodes(row));
    },
  };
}

function editLinks(key, edit, kind) {
  if (!edit || kind === 'binary') return [];
  return [el('a', { class: 'button', href: href('config', key, { edit: 1 }) },
    editWord(hasDraft(key), kind))];
}

function editWord(begun, kind) {
  if (begun) return 'Go on editing';
  return kind === 'absent' ? 'Set a value' : 'Edit';
}

function textNodes({ kind, text }) {
  if (kind === 'absent') return [el('p', { class: 'empty' }, 'There is no value now.')];
  if (kind === 'binary') {
    return [el('p', { class: 'empty' }, 'The value is no text, and is not shown.')];
  }
  if (text === '') return [el('p', { class: 'empty' }, 'The text is empty.')];
  const parts = text.split(HIDDEN).flatMap((part, index) => index === 0 ? visible(part, true)
    : [el('span', { class: 'hidden-value' }, HIDDEN), ...visible(part, true)]);
  return [el('pre', { tabindex: '0', role: 'group', 'aria-label': 'Text' }, ...parts)];
}

function makeVersionPane(key, version) {
  const text = arriving(() => getVersion(key, version), textNodes);
  return {
    node: el('div', {}, paneHead(['Version ', code(version)], backLink(key)), text),
    update() {},
  };
}

function makeChangesPane(key, from, to) {
  const title = ['From ', code(from), ' to ', code(to)];
  return {
    node: el('div', {}, paneHead(title, backLink(key)), changes(key, from, to)),
    update() {},
  };
}

function makeEditPane(key) {
  const editor = makeEditor({ key, leave: () => { location.hash = href('config', key); } });
  return {
    node: el('div', {}, paneHead(['Editing'], backLink(key)), editor.node),
    update: editor.update,
  };
}

/** Who uses which version now. */
function makeUses() {
  const title = el('h2');
  const list = el('ul', { class: 'plain uses' });
  return {
    node: el('section', { 'aria-label': 'Uses' }, title, list),
    update({ uses, version }) {
      const behind = uses.filter((use) => use.version < version).length;
      show(title, [uses.length, behind], usesTitle);
      const items = uses.map((use) => ({ ...use, behind: use.version < version }));
      keyed(list, items, useKey, makeUse);
    },
  };
}

function usesTitle([all, behind]) {
  if (all === 0) return ['Nobody says it is in use'];
  const title = `Used by ${plural(all, 'process', 'processes')}`;
  return behind === 0 ? [title] : [title, ' ', chip(`${behind} behind`, 'warn')];
}

function useKey({ owner, process }) {
  return [owner, process?.name, process?.host, process?.pid, process?.started_ms].join(' ');
}

function makeUse() {
  const node = el('li');
  return {
    node,
    update(use) {
      node.classList.toggle('behind', use.behind);
      show(node, use, useBuild);
    },
  };
}

function useBuild({ owner, process, version, since_ms: since, behind }) {
  return [
    el('div', {}, ...processNodes(process, owner)),
    el('div', {}, 'uses ', code(version), ' for ', age(since), ' ',
      ...(behind ? [chip('behind', 'warn')] : [])),
  ];
}

/** The versions, newest first, with links to each and to what each changed. */
function makeHistory(key, edit) {
  const list = el('ol', { class: 'plain history' });
  const none = el('p', { class: 'dim' }, 'Nothing is recorded.');
  const compare = makeCompare(key);
  return {
    node: el('section', { 'aria-label': 'History' }, el('h2', {}, 'History'), none, list,
      compare.node),
    update({ history, version }) {
      none.hidden = history.length > 0;
      const items = history.map((entry) => ({ ...entry, present: version }));
      keyed(list, items, (entry) => entry.version, () => makeEntry(key, edit));
      compare.update([...new Set([version, ...history.map((entry) => entry.version)])]);
    },
  };
}

function makeEntry(key, edit) {
  const node = el('li');
  return {
    node,
    update(entry) {
      node.classList.toggle('current', entry.current);
      show(node, entry, (given) => entryBuild(key, edit, given));
    },
  };
}

function entryBuild(key, edit, entry) {
  const { version, author, note, at_ms: at, after_gap: gap, current } = entry;
  const nodes = [
    el('div', {}, code(version), ' ', ...(current ? [chip('now', 'good'), ' '] : []),
      label(author ?? ''), ' ', dim(age(at), ' ago')),
    el('div', { class: 'note' }, note ? label(note) : dim('without a note')),
    el('div', { class: 'links' }, ...entryLinks(key, edit, entry)),
  ];
  if (gap) {
    nodes.push(el('div', {}, chip('after a gap', 'warn',
      'Something was written before this version without a record.')));
  }
  return nodes;
}

function entryLinks(key, edit, { version, replaced, current, present }) {
  const links = [];
  const link = (text, params) => links.push(el('a', { href: href('config', key, params) }, text));
  if (!current) link('Text', { version });
  if (replaced) link('What it changed', { from: replaced, to: version });
  if (version !== present) link('Compared with now', { from: version, to: present });
  if (edit && version !== present) {
    links.push(button('Roll back…', () => askRollback({
      key,
      version,
      expected: present,
      changes: changes(key, present, version),
      done: () => { location.hash = href('config', key); },
    }), { class: 'quiet' }));
  }
  return links;
}

/** Any two versions, chosen by hand. */
function makeCompare(key) {
  const from = el('select');
  const to = el('select');
  const node = el('form', { class: 'compare' },
    el('label', {}, 'Compare ', from), el('label', {}, ' with ', to), ' ',
    el('button', { type: 'submit' }, 'Compare'));
  node.addEventListener('submit', (event) => {
    event.preventDefault();
    location.hash = href('config', key, { from: from.value, to: to.value });
  });
  return {
    node,
    update(versions) {
      node.hidden = versions.length < 2;
      const first = to.options.length === 0;
      for (const select of [from, to]) keyed(select, versions, (version) => version, makeOption);
      if (!first) return;
      from.selectedIndex = Math.min(1, versions.length - 1);
      to.selectedIndex = 0;
    },
  };
}

function makeOption() {
  const node = el('option');
  return {
    node,
    update(version) {
      node.value = version;
      node.textContent = version;
    },
  };
}
