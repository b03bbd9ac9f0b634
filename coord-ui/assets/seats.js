// Locks, elections and semaphores: who has it, and who waits for it, in order.

import { endSeat } from './actions.js';
import { age } from './clock.js';
import { chip, copies, dim, disclosure, el, keyed, label, show } from './dom.js';
import { brief, number, plural } from './format.js';
import { codeBuild, labelBuild, leaseBuild, makeCell, makeTable, processNodes } from './table.js';

const MODES = {
  exclusive: ['writer', 'writer', 'exclusive', 'A writer: nobody else holds it with it.'],
  shared: ['reader', 'reader', 'shared', 'A reader: other readers may hold it too.'],
  downgraded: ['reader', 'reader', 'downgraded', 'A reader which was the writer before.'],
};

const KINDS = {
  locks: {
    kind: 'lock',
    title: 'Locks',
    holder: 'Holder',
    holders: ['holder', 'holders'],
    nobody: 'Nobody holds it.',
    empty: 'Nobody holds or wants a lock.',
    detail: { title: 'Mode', label: '', of: (seat) => seat.lock?.mode, build: modeBuild },
  },
  elections: {
    kind: 'election',
    title: 'Elections',
    holder: 'Leader',
    holders: ['leader', 'leaders'],
    nobody: 'It has no leader.',
    empty: 'Nobody leads, and nobody stands for election.',
    detail: { title: 'Value', of: (seat) => seat.election?.value, build: labelBuild },
  },
  semaphores: {
    kind: 'semaphore',
    title: 'Semaphores',
    holder: 'Holder',
    holders: ['holder', 'holders'],
    nobody: 'Nobody holds a permit.',
    empty: 'Nobody holds or wants a permit of a semaphore.',
    detail: { title: 'Permits', of: (seat) => seat.semaphore?.permits, build: codeBuild },
  },
};

function modeBuild(mode) {
  if (!Object.hasOwn(MODES, mode)) return codeBuild(mode);
  const [word, style, how, title] = MODES[mode];
  return [chip(word, style, title), ' ', dim(how)];
}

/** A screen for one of the three. With `edit`, whoever has or wants it can be sent away. */
export function seatScreen(view, edit) {
  const words = KINDS[view];
  const columns = seatColumns(words, edit);
  const blanks = makeBlanks(columns, edit);
  const style = `seats ${view}${edit ? ' edit' : ''}`;
  const node = makeTable(style, words.title, [{ title: 'Name', style: 'what' }, ...columns]);
  return {
    node,
    empty: words.empty,
    update(data) {
      keyed(node, data.rows, (row) => row.name, () => makeItem(words, columns, blanks));
    },
  };
}

/** What each item and each row of a holder or waiter is a copy of. */
function makeBlanks(columns, edit) {
  const wide = columns.length + 1;
  return {
    item: copies(() => el('tbody', { role: 'rowgroup', class: 'item' }, el('tr', { role: 'row' },
      el('th', { role: 'rowheader', scope: 'rowgroup', class: 'what', colspan: wide })))),
    seat: copies(() => {
      const node = el('tr', { role: 'row', class: 'seat' }, ...columns.map(makeCell));
      if (edit) node.lastChild.append(el('button', { type: 'button', class: 'quiet' }, 'End…'));
      return node;
    }),
  };
}

function seatColumns(words, edit) {
  const columns = [
    { title: words.holder, label: '', style: 'who', of: whoOf, build: whoBuild },
    {
      title: 'In queue for',
      hint: 'Since it joined the queue: nobody knows since when it holds.',
      of: (seat) => seat.since_ms,
      build: (since) => [age(since)],
    },
    { title: 'Token', of: (seat) => seat.token, build: codeBuild },
    { ...words.detail, style: 'detail' },
    {
      title: 'Session, time left',
      label: '',
      style: 'lease',
      of: (seat) => seat.session,
      build: leaseBuild,
    },
  ];
  if (edit) columns.push({ title: 'End', label: '', style: 'act' });
  return columns;
}

function whoOf({ owner, process, position }) {
  return { owner, process, position };
}

function whoBuild({ owner, process, position }) {
  const nodes = processNodes(process, owner);
  return position === undefined ? nodes : [dim(`${position}. `), ...nodes];
}

/** A name with the rows of its holders, and below them the queue, if there is one. */
function makeItem(words, columns, blanks) {
  const node = blanks.item();
  const name = node.firstChild.firstChild;
  let tail = null;
  return {
    node,
    update(row) {
      show(name, [row.name, permitsText(row)], nameBuild);
      name.style.setProperty('--rows', row.holders.length + 1);
      const seats = row.holders.map((seat) => ({ ...seat, name: row.name, waits: false }));
      keyed(node, seats, seatKey, () => makeSeat(words, columns, blanks), tail?.node);
      const note = noteText(words, row);
      if (tail === null && (note !== '' || row.waiting > 0)) {
        tail = makeTail(words, columns, blanks);
        node.append(tail.node);
      }
      tail?.update(row, note);
    },
  };
}

/** What stands below the holders: a note about them, and the queue. */
function makeTail(words, columns, blanks) {
  const note = el('span', { class: 'dim' });
  const queue = makeQueue(words, columns, blanks);
  const node = el('tr', { role: 'row', class: 'tail' },
    el('td', { role: 'cell', class: 'wide', colspan: columns.length }, note, queue.node));
  return {
    node,
    update(row, text) {
      note.textContent = text;
      queue.node.hidden = row.waiting === 0;
      node.hidden = row.waiting === 0 && text === '';
      queue.update(row);
    },
  };
}

function nameBuild([name, permits]) {
  return permits === '' ? [label(name)] : [label(name), ' ', dim(permits)];
}

/** How many permits are taken is known only where all holders are listed. */
function permitsText({ permits, holders, held }) {
  const taken = holders.reduce((sum, seat) => sum + (seat.semaphore?.permits ?? 0), 0);
  if (taken === 0) return permits === undefined ? '' : plural(permits, 'permit');
  if (holders.length < held) return permits === undefined ? '' : plural(permits, 'permit');
  return permits === undefined ? `${number(taken)} taken`
    : `${number(taken)} of ${plural(permits, 'permit')} taken`;
}

function noteText(words, { holders, held }) {
  if (held === 0) return words.nobody;
  const unlisted = held - holders.length;
  return unlisted > 0 ? `… and ${number(unlisted)} more ${words.holders[+(unlisted > 1)]}.` : '';
}

function seatKey({ token, session, version }) {
  return `${token} ${session} ${version}`;
}

function makeSeat(words, columns, blanks) {
  const node = blanks.seat();
  const cells = [...node.children];
  let latest;
  node.querySelector('.act button')
    ?.addEventListener('click', () => endSeat(words.kind, latest));
  return {
    node,
    update(seat) {
      latest = seat;
      columns.forEach((column, index) => {
        if (column.of) show(cells[index], column.of(seat), column.build);
      });
    },
  };
}

/** The queue: how long it is and who comes next, and all of them when it is opened. */
function makeQueue(words, columns, blanks) {
  const list = makeTable('nested', 'Queue', columns);
  const body = el('tbody', { role: 'rowgroup' });
  const note = el('p', { class: 'dim' });
  list.append(body);
  return disclosure(queueSummary, null, (node, row) => {
    if (!list.isConnected) node.append(list, note);
    const seats = row.waiters.map((seat, index) =>
      ({ ...seat, name: row.name, waits: true, position: index + 1 }));
    keyed(body, seats, seatKey, () => makeSeat(words, columns, blanks));
    const unlisted = row.waiting - row.waiters.length;
    note.textContent = unlisted > 0 ? `… and ${number(unlisted)} more.` : '';
  });
}

const NAMED = 3;

function queueSummary({ waiting, waiters }) {
  const names = waiters.slice(0, NAMED)
    .map(({ owner, process }) => brief(owner || process?.name || 'unknown', 24));
  const others = waiting > names.length ? ', …' : '';
  return [el('b', {}, `${number(waiting)} waiting`), ' ',
    dim('next: ', el('bdi', {}, names.join(', ') + others))];
}
