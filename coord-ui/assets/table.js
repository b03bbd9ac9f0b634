// Tables, and cells that many of them share. The style sheet lays rows out as a grid, or as cards
// where it is narrow; the roles are told explicitly, for that would take them away.

import { age, timeLeft } from './clock.js';
import { dim, el, label, shortLabel, show, visible } from './dom.js';
import { plain } from './format.js';
import { sessionHref } from './route.js';

/**
 * @typedef {object} Column
 * @property {string} title
 * @property {string} [label] what stands before the value in a card, if not the title
 * @property {string} [style] a class for all of its cells
 * @property {string} [hint] what the title means, for its `title`
 * @property {(row: object) => unknown} [of] what the cell shows of a row
 * @property {(value: any) => Node[]} [build] the nodes for that
 * @property {() => {node: Node, update: Function}} [make] takes the place of `build` for a cell
 *   with a state of its own
 */

/** A table without rows. @param {Column[]} columns */
export function makeTable(style, name, columns) {
  const titles = columns.map((column) => el('th', {
    role: 'columnheader', scope: 'col', class: column.style, title: column.hint,
  }, column.title));
  return el('table', { class: `table ${style}`, role: 'table', 'aria-label': name },
    el('thead', { role: 'rowgroup' }, el('tr', { role: 'row' }, ...titles)));
}

export function makeCell(column) {
  const before = column.label ?? column.title;
  return el('td', { role: 'cell', class: column.style, 'data-label': before || null });
}

/** A row of a plain table, without content: its first cell is its header. */
export function blankRow(columns) {
  const cells = columns.map((column, index) => index === 0
    ? el('th', { role: 'rowheader', scope: 'row', class: column.style })
    : makeCell(column));
  return el('tr', { role: 'row' }, ...cells);
}

/** Gives a row its content. @param {Column[]} columns */
export function makeRow(node, columns) {
  const cells = [...node.children];
  const parts = columns.map((column, index) => {
    if (!column.make) return { update: (value) => show(cells[index], value, column.build) };
    const part = column.make();
    cells[index].append(part.node);
    return part;
  });
  return {
    node,
    update(row) {
      parts.forEach((part, index) => part.update(columns[index].of(row)));
    },
  };
}

/** A process: its name, where it runs, and how long ago it was started. */
export function processNodes(process, owner) {
  if (!process) {
    return owner ? [shortLabel(owner), ' ', dim('unknown process')] : [dim('unknown process')];
  }
  // What is not known of it is empty or zero.
  const { name, host, pid, started_ms: started, version } = process;
  const facts = [];
  if (owner && owner !== name) facts.push([shortLabel(name)]);
  if (host) facts.push([shortLabel(host, 40)]);
  if (pid) facts.push([`pid ${pid}`]);
  if (started) facts.push(['up ', age(started)]);
  if (version) facts.push([shortLabel(version, 20)]);
  const listed = facts.flatMap((fact, index) => (index === 0 ? fact : [' · ', ...fact]));
  return [shortLabel(owner || name), ' ', dim(...listed)];
}

export function processBuild(process) {
  return processNodes(process);
}

export function ageBuild(since) {
  return [age(since)];
}

export function codeBuild(value) {
  return value == null ? [dim('–')] : [el('code', {}, String(value))];
}

export function labelBuild(text) {
  return text == null ? [dim('–')] : [label(text)];
}

/** The session that something hangs on, as a link to it. */
export function sessionBuild(session) {
  if (session === null) return [dim('written without a lease by another program')];
  return [sessionLink(session)];
}

/** The same with the time that its lease has left. */
export function leaseBuild(session) {
  return session === null ? sessionBuild(null) : [sessionLink(session), timeLeft(session)];
}

function sessionLink(session) {
  const text = String(session);
  const short = text.length > 10 ? `${text.slice(0, 4)}…${text.slice(-4)}` : text;
  const title = plain(`Session ${text}`);
  return el('a', { class: 'session', href: sessionHref(text), title }, ...visible(short));
}

/** Pairs of a key and a value that nobody has promised anything about. */
export function pairsBuild(pairs) {
  if (pairs.length === 0) return [dim('–')];
  return pairs.map(([key, value]) => el('span', { class: 'pair' },
    el('span', { class: 'key' }, label(key)), '=', label(valueText(value))));
}

function valueText(value) {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
