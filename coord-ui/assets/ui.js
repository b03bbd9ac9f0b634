// The page: follows the location's hash, keeps the stream that goes with it open, and gives what
// arrives to the screen that shows it.

import { showRights } from './actions.js';
import { setLeases, startTicking, tick } from './clock.js';
import { documentScreen } from './document.js';
import { button, el, label, show } from './dom.js';
import { number, plain, plural } from './format.js';
import { isWell, showHealth, showLost, showOver } from './health.js';
import { listScreen } from './lists.js';
import { SECTIONS, href, parse } from './route.js';
import { seatScreen } from './seats.js';
import { openStream } from './stream.js';

const FIRST_LIMIT = 100;
const MOST = 2000;
const PORTION = 250;
const TYPING_PAUSE_MS = 200;
const SEATS = ['locks', 'elections', 'semaphores'];

const at = (id) => document.getElementById(id);
const [main, title, count, content, notice, more] =
  ['main', 'title', 'count', 'content', 'notice', 'more'].map(at);
const filter = at('filter');
const rights = at('rights');

const limits = new Map(); // By view and name: how many rows the person asked for.
const visits = new Map(); // By entry of the browser's history: where one was on that page.
let visit = null;
let left = null; // The link by which the page is being left.
let comeBack = null; // What to restore as soon as there are rows again.
let route = null;
let screen = null;
let latest = null;
let stream = null;
let streamed = null;
let edit = false;
let store = null;
let pause = null; // The timer for what is being typed into the filter.
let drawn = 0; // How many rows the screen may have by now.
let rest = null; // The timer for the rows still to come.

/** Follows the hash, after the browser or this page has changed it. */
function follow() {
  const before = route;
  route = parse(location.hash);
  const elsewhere = before?.view !== route.view || before?.name !== route.name;
  if (filterText() !== filter.value.trim()) filter.value = filterText();
  if (elsewhere) openScreen();
  if (elsewhere && before !== null) keepFocus();
  screen?.go?.(route.params);
  connect();
  drawTitle();
}

function filterText() {
  return route.view === 'document' ? '' : route.params.get('filter') ?? '';
}

function makeScreen() {
  if (SEATS.includes(route.view)) return seatScreen(route.view, edit);
  if (route.view === 'document') return documentScreen(route.name, edit);
  return route.view === 'none' ? null : listScreen(route.view, route.name);
}

function openScreen() {
  latest = null;
  drawn = 0;
  clearTimeout(rest);
  screen = makeScreen();
  const text = screen === null ? 'There is no such view.' : 'Loading…';
  content.replaceChildren(el('p', { class: 'empty' }, text));
  count.textContent = '';
  more.hidden = true;
  at('filter-box').hidden = screen === null || route.view === 'document';
  for (const link of at('nav').children) {
    const here = goesTo(link) === href(route.section);
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

/** The link that led here may be gone with its screen: the keyboard then goes on from the title. */
function keepFocus() {
  if (document.activeElement === document.body) title.focus({ preventScroll: true });
}

function drawTitle() {
  const section = SECTIONS[route.section]?.title ?? 'Nowhere';
  show(title, [route.section, route.name], () => route.name === null ? [section]
    : [el('a', { href: href(route.section) }, section), ' › ', label(route.name)]);
  const place = [section, store, 'coord'];
  if (route.name !== null) place.unshift(route.name);
  const text = place.filter((part) => part !== null).map(plain).join(' · ');
  document.title = isWell() ? text : `✗ ${text}`;
}

function limitKey() {
  return JSON.stringify([route.view, route.name]);
}

/** Opens the stream anew if what is to be looked at has changed. */
function connect() {
  const { view, name } = route;
  const limit = limits.get(limitKey()) ?? FIRST_LIMIT;
  const query = { view, name, filter: filterText(), limit };
  if (JSON.stringify(query) === JSON.stringify(streamed)) return;
  reconnect(query);
}

function reconnect(query) {
  stream?.close();
  if (query.filter !== streamed?.filter) drawn = 0;
  streamed = query;
  hideNotice();
  content.classList.add('waiting');
  stream = openStream(query, { health, view: drawView, failed, end, down });
}

function health(data) {
  showHealth(data);
  store = data.store.id ?? store;
  showRights(rights, data.edit);
  if (data.edit !== edit) {
    edit = data.edit;
    remakeScreen();
  }
  drawTitle();
}

/** Rows have other buttons when changes are allowed, which happens once if at all. */
function remakeScreen() {
  const data = latest;
  openScreen();
  screen?.go?.(route.params);
  if (data !== null) drawView(data);
}

function down() {
  showLost();
  content.classList.add('stale');
  drawTitle();
}

function failed({ message, kind }) {
  content.classList.add('stale');
  showNotice([`This cannot be shown now (${plain(kind)}): `, plain(message),
    latest === null ? '' : ' What is below is from before.', ' Trying again.']);
}

function end({ message }) {
  showOver();
  content.classList.add('stale');
  showNotice([`The page is no longer updated: ${plain(message)} `,
    button('Reconnect', () => reconnect(streamed))]);
  drawTitle();
}

function showNotice(nodes) {
  notice.replaceChildren(...nodes);
  notice.hidden = false;
  if (latest === null) content.replaceChildren();
}

function hideNotice() {
  notice.hidden = true;
}

function drawView(data) {
  latest = data;
  hideNotice();
  content.classList.remove('stale', 'waiting');
  setLeases(...leasesOf(data));
  tick();
  drawCount(data);
  drawRows(Math.max(drawn, PORTION));
}

/** Many rows come in portions, so that the first are there at once and the page never stalls. */
function drawRows(many) {
  clearTimeout(rest);
  drawn = many;
  const { rows } = latest;
  const focused = document.activeElement;
  screen.update(rows.length > drawn ? { ...latest, rows: rows.slice(0, drawn) } : latest);
  content.classList.toggle('many', rows.length > FIRST_LIMIT);
  const wanted = rows.length === 0 ? emptyNode(latest) : screen.node;
  if (wanted !== content.firstChild) content.replaceChildren(wanted);
  // Moving a row takes the focus from what is in it.
  if (focused !== document.activeElement && focused.isConnected) {
    focused.focus({ preventScroll: true });
  }
  if (rows.length > drawn) {
    rest = setTimeout(() => drawRows(drawn + PORTION));
    return;
  }
  drawMore(latest);
  restore();
}

/** The sessions' own list tells of each row what the others tell in one table. */
function leasesOf({ view, rows, remaining, ttl }) {
  if (view !== 'sessions') return [remaining ?? {}, ttl];
  const known = rows.filter((row) => row.remaining_s !== null);
  return [Object.fromEntries(known.map((row) => [row.session, row.remaining_s])), ttl];
}

function emptyNode({ total }) {
  const filtered = total > 0 && filterText() !== '';
  return el('p', { class: 'empty' }, filtered ? 'Nothing matches the filter.' : screen.empty);
}

function drawCount(data) {
  if (data.view !== 'document') count.textContent = countText(data);
}

function countText({ rows, matching, total }) {
  if (total === 0) return '';
  if (filterText() === '') {
    return rows.length === total ? `all ${number(total)}`
      : `${number(rows.length)} of ${number(total)}`;
  }
  const some = matching === 0 ? 'none' : number(matching);
  const text = `${some} of ${number(total)} ${matching === 1 ? 'matches' : 'match'}`;
  return rows.length < matching ? `${text}, ${number(rows.length)} shown` : text;
}

function drawMore({ rows, matching }) {
  const left = matching - rows.length;
  more.hidden = left <= 0 || rows.length === 0;
  if (more.hidden) return;
  const limit = streamed.limit;
  show(more, [limit, left], () => limit < MOST
    ? [button(`Show ${number(Math.min(limit, MOST - limit, left))} more`, showMore)]
    : [`The first ${plural(MOST, 'row')} are shown. The filter finds the others.`]);
}

function showMore() {
  limits.set(limitKey(), Math.min(MOST, streamed.limit * 2));
  connect();
}

/** Puts the filter into the hash without a new entry in the browser's history. */
function filterChanged() {
  clearTimeout(pause);
  pause = setTimeout(() => {
    const { section, name } = route;
    history.replaceState(history.state, '', href(section, name, { filter: filter.value.trim() }));
    follow();
  }, TYPING_PAUSE_MS);
}

function clearFilter() {
  filter.value = '';
  filterChanged();
}

/** Keeps where one is on the page that is left, and finds out whether one has been here before. */
function travel() {
  clearTimeout(pause);
  if (visit !== null) visits.set(visit, { top: scrollY, link: left });
  left = null;
  comeBack = visits.get(history.state?.visit) ?? null;
  const elsewhere = parse(location.hash);
  const samePlace = elsewhere.view === route?.view && elsewhere.name === route?.name;
  stamp();
  follow();
  if (samePlace) comeBack = null;
  else if (comeBack === null) scrollTo(0, 0);
}

function stamp() {
  visit = history.state?.visit ?? `${Date.now()} ${Math.random()}`;
  history.replaceState({ visit }, '');
}

/** Back at the same height, with the focus on the link by which one had left. */
function restore() {
  if (comeBack === null) return;
  const { top, link } = comeBack;
  comeBack = null;
  scrollTo(0, top);
  const same = link && [...content.querySelectorAll('a')].find((a) => goesTo(a) === link.to);
  if (!same) return;
  same.focus({ preventScroll: true });
  // Heights of rows that were never in sight are estimates: this is exact.
  scrollBy(0, offset(same) - link.offset);
}

function goesTo(link) {
  return link.getAttribute('href');
}

function offset(node) {
  return node.getBoundingClientRect().top;
}

function isTyping(target) {
  return target.closest('input, textarea, select, dialog') !== null;
}

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && event.target === filter) {
    event.preventDefault();
    clearFilter();
  }
  const plainKey = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (event.key === '/' && plainKey && !isTyping(event.target) && !at('filter-box').hidden) {
    event.preventDefault();
    filter.focus();
    filter.select();
  }
});

document.addEventListener('click', (event) => {
  const link = event.target.closest('a');
  if (link !== null && content.contains(link)) left = { to: goesTo(link), offset: offset(link) };
});

at('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

filter.addEventListener('input', filterChanged);

// The line above everything may take more than one row: what sticks below it has to know.
new ResizeObserver(([{ target }]) => {
  document.documentElement.style.setProperty('--band', `${target.offsetHeight}px`);
}).observe(at('band'));

history.scrollRestoration = 'manual';
window.addEventListener('hashchange', travel);

// A fault of the page itself must not look like a store in which nothing happens.
window.addEventListener('error', ({ error }) => {
  if (error) showNotice([`This page has a fault, and may be out of date: ${plain(String(error))}`]);
});

// A page that the browser keeps for "back" must not hold one of its few connections to the server.
window.addEventListener('pagehide', () => stream?.close());
window.addEventListener('pageshow', (event) => {
  if (event.persisted) reconnect(streamed);
});

startTicking();
stamp();
follow();
