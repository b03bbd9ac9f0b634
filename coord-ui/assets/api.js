// Requests besides the stream. All of them fail with an Error that has a message for a person.

import { plain } from './format.js';

const PATIENCE_MS = 30_000;

// The token lives in this variable and nowhere else; it is gone when the tab is closed.
let token = null;

export function setToken(text) {
  token = text;
}

export function hasToken() {
  return token !== null;
}

export function getDiff(key, from, to) {
  return ask(`api/diff?${new URLSearchParams({ key, from, to })}`);
}

export function getVersion(key, version) {
  return ask(`api/version?${new URLSearchParams({ key, version })}`);
}

/** @param {"config"|"rollback"|"end"} what */
export function post(what, body) {
  return ask(`api/${what}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
}

/** Where the server has this: beside the page's files, wherever the page is mounted. */
export function placeOf(path) {
  return new URL(`../${path}`, import.meta.url);
}

/** An answer that says no: `kind` and, for a conflict, the version that it is `current`ly. */
class Refusal extends Error {
  constructor(status, { kind, message, current } = {}) {
    super(message ? plain(message) : `The server answered ${status}.`);
    this.kind = kind;
    this.current = current;
    this.status = status;
  }
}

async function ask(url, options = {}) {
  let response;
  let body;
  try {
    response = await fetch(placeOf(url), { ...options, signal: AbortSignal.timeout(PATIENCE_MS) });
    body = await response.text();
  } catch (error) {
    throw new Error(unanswered(error, options.method === 'POST'), { cause: error });
  }
  const data = parsed(body);
  if (response.ok && data !== undefined) return data;
  const refusal = new Refusal(response.status, data?.error);
  if (response.status === 401 || response.status === 403) token = null;
  throw refusal;
}

/** A write without an answer may have happened, and the person has to know. */
function unanswered(error, write) {
  const what = error.name === 'TimeoutError'
    ? 'The page\'s own server did not answer for 30 s.'
    : 'The page\'s own server cannot be reached.';
  return write ? `${what} It may have been done all the same: look before you try again.` : what;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
