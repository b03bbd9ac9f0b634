// The server's clock, and everything on the page that goes on by itself between two updates: ages
// that grow, and the time left of leases which runs out.

import { copies, el } from './dom.js';
import { isMoment, moment, span } from './format.js';

// The server's time when this page's own monotonic clock stood at zero.
let zero = null;

export function setServerTime(ms) {
  zero = ms - performance.now();
}

function serverNow() {
  return zero === null ? Date.now() : zero + performance.now();
}

// Of each <time>: the moment, and what is written in it now.
const stateOf = new WeakMap();
const ages = document.getElementsByTagName('time');

/** An age that ticks: "3 m 12 s", with the moment itself in the title. */
export function age(since) {
  if (!isMoment(since)) return el('span', { class: 'dim', title: 'not known' }, '–');
  const text = span(serverNow() - since);
  const datetime = new Date(since).toISOString();
  const node = el('time', { datetime, title: moment(since) }, text);
  stateOf.set(node, { since, text });
  return node;
}

function drawAge(node, now) {
  const state = stateOf.get(node);
  const text = span(now - state.since);
  if (text === state.text) return;
  state.text = text;
  node.firstChild.data = text;
}

// Of each bar: its nodes, the session, and what is drawn now.
const leaseOf = new WeakMap();
const leases = new Map();
const bars = document.getElementsByClassName('ttl');

/** What the server says about leases now; what it does not mention is no longer known. */
export function setLeases(remaining, ttl = {}) {
  leases.clear();
  const now = performance.now();
  for (const [session, seconds] of Object.entries(remaining)) {
    leases.set(session, { ends: now + seconds * 1000, ttl: ttl[session] });
  }
}

/** The time left of a session's lease unless it is renewed: a bar and seconds, counting down. */
export function timeLeft(session) {
  const node = blankBar();
  const [bar, left] = node.childNodes;
  const nodes = { bar, fill: bar.firstChild, words: left.firstChild };
  leaseOf.set(node, { ...nodes, session, text: '–', style: 'bar none', share: '' });
  drawTimeLeft(node);
  return node;
}

const blankBar = copies(() => el('span', { class: 'ttl' },
  el('span', { class: 'bar none', 'aria-hidden': 'true' }, el('span', { class: 'fill' })),
  el('span', { class: 'left' }, '–')));

function drawTimeLeft(node) {
  const state = leaseOf.get(node);
  const { text, style, share } = look(leases.get(state.session));
  if (text !== state.text) state.words.data = text;
  if (style !== state.style) state.bar.className = style;
  if (share !== state.share) state.fill.style.setProperty('--left', share);
  Object.assign(state, { text, style, share });
}

/** How a lease looks now; the bar is drawn only where the whole time is known. */
function look(lease) {
  if (lease === undefined) return { text: '–', style: 'bar none', share: '' };
  const seconds = Math.max(0, (lease.ends - performance.now()) / 1000);
  const text = `${Math.ceil(seconds)} s`;
  if (!(lease.ttl > 0)) return { text, style: 'bar none', share: '' };
  const share = Math.min(1, seconds / lease.ttl);
  return { text, style: share < 1 / 3 ? 'bar low' : 'bar', share: share.toFixed(2) };
}

/** Draws everything that ticks. */
export function tick() {
  const now = serverNow();
  // Copies, for a live collection is searched anew after every change of the document.
  for (const node of [...ages]) drawAge(node, now);
  for (const node of [...bars]) drawTimeLeft(node);
}

/** Ticks each second while somebody can see it, and at once when the page comes into view. */
export function startTicking() {
  setInterval(() => {
    if (!document.hidden) tick();
  }, 1000);
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) tick();
  });
}
