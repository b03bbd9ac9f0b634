// The plain lists: services and their instances, ids, sessions, configuration keys, losses.

import { age, timeLeft } from './clock.js';
import { chip, copies, dim, disclosure, el, keyed, label, visible } from './dom.js';
import { number, plural, span } from './format.js';
import { href } from './route.js';
import {
  ageBuild, blankRow, codeBuild, labelBuild, makeRow, makeTable, pairsBuild, processBuild,
  processNodes, sessionBuild,
} from './table.js';

const session = { title: 'Session', of: (row) => row.session, build: sessionBuild };
const process = {
  title: 'Process', label: '', style: 'who', of: (row) => row.process, build: processBuild,
};
const version = { title: 'Version', of: (row) => row.version, build: codeBuild };

/** A column of names that lead to what is below them. */
function leading(title, field, section) {
  return {
    title,
    style: 'what',
    of: (row) => row[field],
    build: (name) => [label(name, href(section, name))],
  };
}

const LISTS = {
  services: {
    title: 'Services',
    empty: 'No service has an instance.',
    key: (row) => row.name,
    columns: [
      leading('Service', 'name', 'services'),
      { title: 'Instances', style: 'count', of: (row) => row.instances, build: numberBuild },
      { title: 'Invalid', style: 'count', of: (row) => row.invalid, build: invalidBuild,
        hint: 'Entries below the service that are no instance.' },
    ],
  },
  instances: {
    title: 'Instances',
    empty: 'This service has no instance now.',
    key: (row) => row.id,
    columns: [
      { title: 'Instance', style: 'what', of: (row) => row.id, build: labelBuild },
      { title: 'Address', style: 'address', of: (row) => [row.address, row.port],
        build: addressBuild },
      { title: 'Metadata', style: 'pairs', of: metadataOf, build: pairsBuild },
      process,
      session,
      version,
    ],
  },
  ids: {
    title: 'Ids',
    empty: 'No service has taken an id.',
    key: (row) => row.service,
    columns: [
      leading('Service', 'service', 'ids'),
      { title: 'Ids taken', style: 'count', of: (row) => row.taken, build: numberBuild },
    ],
  },
  idsOfOne: {
    title: 'Ids',
    empty: 'Nobody has taken an id of this service.',
    key: (row) => row.id,
    columns: [
      { title: 'Id', style: 'what', of: (row) => row.id, build: codeBuild },
      { title: 'Owner', label: '', style: 'who', of: ({ owner, process: of }) => ({ owner, of }),
        build: ({ owner, of }) => processNodes(of, owner) },
      { title: 'Taken for', of: (row) => row.since_ms, build: ageBuild },
      session,
      { title: 'Token', of: (row) => row.token, build: codeBuild },
    ],
  },
  sessions: {
    title: 'Sessions',
    empty: 'No process has a session.',
    key: (row) => row.session,
    columns: [
      { title: 'Session', style: 'what', of: (row) => row.session, build: codeBuild },
      process,
      { title: 'Time left', style: 'lease', of: (row) => row.session,
        build: (of) => [timeLeft(of)] },
      { title: 'Keys', label: '', style: 'keys', of: (row) => [row.keys, row.some_keys],
        make: () => disclosure(keysSummary, keysContent) },
    ],
  },
  config: {
    title: 'Configuration',
    empty: 'There is no configuration.',
    key: (row) => row.key,
    columns: [leading('Key', 'key', 'config'), version],
  },
  events: {
    title: 'Losses',
    empty: 'Nothing was lost in the last 7 days, as far as it was written down.',
    key: (row) => [row.at_ms, row.contract, row.key, row.token, row.session].join(' '),
    columns: [
      { title: 'What', style: 'what', of: ({ contract, key }) => ({ contract, key }),
        build: lossBuild },
      { title: 'When', of: (row) => row.at_ms, build: (at) => [age(at), ' ago'] },
      { title: 'Why', style: 'why', of: whyOf, build: whyBuild },
      { title: 'Last renewal', of: (row) => row.renewed_ago_ms, build: renewalBuild,
        hint: 'How long before the loss the session was renewed for the last time.' },
      { title: 'Whose', of: (row) => row.provider, build: labelBuild },
      session,
      { title: 'Token', of: (row) => row.token, build: codeBuild },
    ],
  },
};

/** A screen for one of the lists. */
export function listScreen(view, name) {
  const which = view === 'ids' && name !== null ? 'idsOfOne' : view;
  const { title, empty, key, columns } = LISTS[which];
  const body = el('tbody', { role: 'rowgroup' });
  const style = columns.length > 3 ? which : `${which} few`;
  const node = makeTable(`list ${style}`, title, columns);
  const row = copies(() => blankRow(columns));
  node.append(body);
  return {
    node,
    empty,
    update(data) {
      keyed(body, data.rows, key, () => makeRow(row(), columns));
    },
  };
}

function numberBuild(value) {
  return [number(value)];
}

function invalidBuild(invalid) {
  return invalid > 0 ? [chip(`${number(invalid)} invalid`, 'bad')] : [dim('–')];
}

function addressBuild([address, port]) {
  const text = String(address ?? '');
  return [el('bdi', { class: 'name' }, ...visible(text.includes(':') ? `[${text}]` : text)),
    dim(`:${port}`)];
}

const TOLD_ELSEWHERE = ['name', 'id', 'address', 'port', 'metadata', 'session', 'process',
  'version'];

/** The metadata, and whatever else a newer server tells of an instance. */
function metadataOf(row) {
  const others = Object.entries(row).filter(([field]) => !TOLD_ELSEWHERE.includes(field));
  return [...Object.entries(row.metadata ?? {}), ...others];
}

function keysSummary([keys]) {
  return [keys === 0 ? dim('no key') : plural(keys, 'key')];
}

function keysContent([keys, some]) {
  if (keys === 0) return [dim('Nothing hangs on this session.')];
  const unlisted = keys - some.length;
  const items = some.map((key) => el('li', {}, label(key)));
  if (unlisted > 0) items.push(el('li', { class: 'dim' }, `… and ${number(unlisted)} more`));
  return [el('ul', { class: 'plain' }, ...items)];
}

const SECTION_OF = { lock: 'locks', election: 'elections', semaphore: 'semaphores' };

function lossBuild({ contract, key }) {
  const section = Object.hasOwn(SECTION_OF, contract) ? SECTION_OF[contract] : null;
  const link = section === null ? undefined : href(section, null, { filter: key });
  return [dim(contract), ' ', label(key, link)];
}

function whyOf({ reason, last_error: error }) {
  return { reason, error };
}

function whyBuild({ reason, error }) {
  return error ? [chip(reason, 'bad'), ' ', dim(label(error))] : [chip(reason, 'bad')];
}

function renewalBuild(ms) {
  return typeof ms === 'number' ? [`${span(ms)} before`] : [dim('–')];
}
