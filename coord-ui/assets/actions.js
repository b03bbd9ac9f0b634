// What can be changed from the page, with the questions that come before.

import { hasToken, post, setToken } from './api.js';
import { ask } from './ask.js';
import { button, code, el, label, say, show } from './dom.js';
import { brief, plain } from './format.js';
import { processNodes } from './table.js';

// What the person called themselves last time; it is not kept beyond this tab.
let author = '';

/** Says in `node` what may be changed here, and lets the person give or forget the token. */
export function showRights(node, edit) {
  show(node, [edit, edit && hasToken()], () => {
    if (!edit) return ['Read-only'];
    if (!hasToken()) return [button('Enter token…', () => askToken(node))];
    return ['Editing ', button('Forget token', () => {
      setToken(null);
      showRights(node, edit);
    })];
  });
}

function askToken(node) {
  ask({
    title: 'Token for changes',
    body: [el('p', {}, 'Whoever started this page has set it. Whether it is the right one turns ' +
      'out with the first change.')],
    token: true,
    submit: 'Use it',
    act: () => showRights(node, true),
  });
}

const ENDS = {
  lock: ['the lock', 'holder'],
  election: ['the election', 'leader'],
  semaphore: ['the semaphore', 'holder'],
};

/** Asks twice, and then takes a holder or a waiter away. */
export function endSeat(kind, seat) {
  const [what, holder] = ENDS[kind];
  const role = seat.waits ? 'waiter' : holder;
  const effect = seat.waits
    ? 'This takes it out of the queue; those behind it move up.'
    : `This takes it from this ${holder}; the next in the queue gets it at once.`;
  const about = () => el('dl', { class: 'about' },
    el('dt', {}, `Name of ${what}`), el('dd', {}, label(seat.name)),
    el('dt', {}, `The ${role}`), el('dd', {}, ...processNodes(seat.process, seat.owner)),
    el('dt', {}, 'Token'), el('dd', {}, code(seat.token)));
  const end = async () => {
    const { ended } = await post('end', { kind, name: seat.name, token: seat.token });
    if (!ended) throw new Error('Nothing was ended: nobody stands there with this token any more.');
    say(`Ended: the ${role} ${who(seat)} of ${what} ${brief(seat.name, 60)}.`);
  };
  const sure = () => ask({
    title: `Really end this ${role}?`,
    body: [about(), el('p', {}, effect)],
    fields: [{
      name: 'name',
      label: 'Type the name as it is written above',
      accepts: [seat.name, plain(seat.name)],
    }],
    token: true,
    submit: `End this ${role}`,
    style: 'danger',
    act: end,
  });
  ask({
    title: `End this ${role}?`,
    body: [about(), el('p', {}, effect)],
    submit: 'Go on…',
    style: 'danger',
    act: () => queueMicrotask(sure),
  });
}

function who({ owner, process }) {
  return brief(owner || process?.name || 'without a name', 40);
}

function recordFields(note) {
  return [
    { name: 'note', label: 'Why (goes into the history)', value: note },
    { name: 'author', label: 'Your name (goes into the history)', value: author },
  ];
}

/**
 * Asks for a reason and saves a document.
 * @param {{key: string, text: string, expected: number, note: string, review: Node[],
 *   kept: (note: string) => void, saved: Function, conflict: (current: number) => void}} change
 */
export function askSave({ key, text, expected, note, review, kept, saved, conflict }) {
  ask({
    title: 'Save this?',
    body: review,
    fields: recordFields(note),
    token: true,
    submit: 'Save',
    act: async (values) => {
      author = values.author;
      kept(values.note);
      try {
        const { version } = await post('config', { key, text, expected, ...values });
        saved();
        say(`Saved as version ${version}.`);
      } catch (error) {
        if (error.status !== 409) throw error;
        conflict(error.current);
        say('Not saved: it is another version now. Your text is kept.');
      }
    },
  });
}

/** Asks for a reason and brings an earlier version back. */
export function askRollback({ key, version, expected, changes, done }) {
  ask({
    title: `Roll back to version ${version}?`,
    body: [
      el('p', {}, 'A new version is written with what stood in ', code(version),
        '. This is what changes, compared with ', code(expected), ', which stands there now:'),
      el('div', { class: 'review' }, changes),
    ],
    fields: recordFields(''),
    token: true,
    submit: 'Roll back',
    style: 'danger',
    act: async (values) => {
      author = values.author;
      const answer = await post('rollback', { key, version, expected, ...values });
      done();
      say(`Rolled back to ${version}: it is version ${answer.version} now.`);
    },
  });
}
