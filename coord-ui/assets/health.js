// The first line: whether the store and this page's connections to it are well, in word, sign and
// colour. It also has the say over the tab's icon.

import { age, setServerTime } from './clock.js';
import { announce, dim, el, show, shortLabel, visible } from './dom.js';
import { plural, roundTrip, timeOfDay } from './format.js';

const WORDS = {
  waiting: '… connecting…',
  good: '✓ Healthy',
  bad: '✗ Not healthy',
  lost: '✗ No connection',
  over: '✗ No longer updated',
};

// A disc with a tick, and a square with a cross: told apart without their colour too.
const ICONS = {
  good: '<circle cx="8" cy="8" r="8" fill="#1a7f37"/>' +
    '<path d="M4.5 8.5l2.5 2.5 4.5-5" fill="none" stroke="#fff" stroke-width="2"/>',
  bad: '<rect width="16" height="16" rx="2" fill="#cf222e"/>' +
    '<path d="M4.5 4.5l7 7m0-7l-7 7" fill="none" stroke="#fff" stroke-width="2"/>',
};

const band = document.getElementById('band');
const word = document.getElementById('word');
const findings = document.getElementById('findings');
const facts = {};
let state = 'waiting';
let lostSince = null;
let known = { id: null, version: null }; // Of the store, which tells them only while it answers.

for (const name of ['store', 'trip', 'renewal', 'watches', 'client']) {
  facts[name] = el('span', { class: name });
}
document.getElementById('facts').append(...Object.values(facts));

export function isWell() {
  return state === 'good' || state === 'waiting';
}

/** What the server tells about the store and itself. */
export function showHealth(health) {
  setServerTime(health.at_ms);
  const { store, watches, client } = health;
  if (store.id !== null) known = { id: store.id, version: store.version };
  show(facts.store, known, storeBuild);
  show(facts.trip, [store.ok, store.round_trip_ms], tripBuild);
  show(facts.renewal, renewalOf(health), renewalBuild);
  show(facts.watches, watches, watchesBuild);
  show(facts.client, client, (name) => [dim('as '), shortLabel(name, 40)]);
  const list = [...health.findings];
  const told = list.some((finding) => finding.includes(store.error));
  if (!store.ok && store.error && !told) list.unshift(`The store does not answer: ${store.error}`);
  lostSince = null;
  enter(health.ok && store.ok ? 'good' : 'bad', list);
}

/** The page's own server cannot be reached, since now or since before. */
export function showLost() {
  lostSince ??= Date.now();
  enter('lost', [`There is no connection to the page's own server since ${timeOfDay(lostSince)}. ` +
    'What is shown below is from before; the page goes on trying.']);
}

/** The stream is over for good. */
export function showOver() {
  enter('over', []);
}

function enter(next, list) {
  const changed = next !== state;
  state = next;
  band.dataset.state = next;
  word.textContent = WORDS[next];
  findings.hidden = list.length === 0;
  show(findings, list, (texts) => texts.map((text) => el('li', {}, ...visible(text))));
  if (!changed) return;
  document.getElementById('icon').href =
    `data:image/svg+xml,${encodeURIComponent(svg(ICONS[isWell() ? 'good' : 'bad']))}`;
  announce([`${WORDS[next].slice(2)}.`, ...list].join(' '));
}

function svg(content) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${content}</svg>`;
}

function storeBuild({ id, version }) {
  if (id === null) return [];
  const nodes = [el('b', {}, shortLabel(id))];
  if (version) nodes.push(' ', dim(version));
  return nodes;
}

function tripBuild([ok, ms]) {
  if (!ok) return [dim('round trip '), 'no answer'];
  return [dim('round trip '), ms == null ? '–' : roundTrip(ms)];
}

/** When the session was renewed that has been waiting for it the longest. */
function renewalOf({ at_ms: now, renewal }) {
  return renewal && { ...renewal, since: Math.round(now - renewal.oldest_s * 1000) };
}

function renewalBuild(renewal) {
  if (renewal === null) return [dim('no session to renew')];
  const { sessions, since, failing } = renewal;
  const nodes = [dim(`${plural(sessions, 'session')}, renewed `), age(since), dim(' ago')];
  if (failing > 0) nodes.push(' ', el('b', {}, `${failing} failing`));
  return nodes;
}

function watchesBuild({ live, suspended }) {
  const nodes = [plural(live, 'watch', 'watches'), dim(' live')];
  if (suspended > 0) nodes.push(', ', el('b', {}, `${suspended} suspended`));
  return nodes;
}
