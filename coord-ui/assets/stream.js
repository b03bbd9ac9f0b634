// The one EventSource of the tab. It is opened anew for each thing to be looked at, and by itself
// whenever the connection is lost or falls silent.

import { placeOf } from './api.js';

// The server says something every 5 s, but for when it waits for a store that does not answer.
const SILENCE_MS = 30_000;
const LONGEST_PAUSE_MS = 5_000;

/**
 * @param {{view: string, name: string|null, filter: string, limit: number}} query
 * @param {{health: Function, view: Function, failed: Function, end: Function, down: Function}} on
 * @returns {{close: Function}}
 */
export function openStream(query, on) {
  let source = null;
  let heard = performance.now();
  let tries = 0;
  let retry = null;

  const watchdog = setInterval(() => {
    if (source !== null && performance.now() - heard > SILENCE_MS) lost();
  }, 1000);

  function open() {
    heard = performance.now();
    source = new EventSource(address(query));
    source.addEventListener('error', lost);
    for (const name of ['health', 'view', 'failed']) listen(name, on[name]);
    listen('end', (data) => {
      close();
      on.end(data);
    });
  }

  function listen(name, act) {
    source.addEventListener(name, (event) => {
      heard = performance.now();
      tries = 0;
      act(JSON.parse(event.data));
    });
  }

  // Browsers differ in which errors they retry, and when; so every retry is made here.
  function lost() {
    source.close();
    source = null;
    on.down();
    retry = setTimeout(open, Math.min(LONGEST_PAUSE_MS, 1000 * 2 ** tries));
    tries += 1;
  }

  function close() {
    clearInterval(watchdog);
    clearTimeout(retry);
    source?.close();
    source = null;
  }

  open();
  return { close };
}

function address({ view, name, filter, limit }) {
  const query = new URLSearchParams({ view });
  if (name !== null) query.set('name', name);
  if (filter !== '') query.set('filter', filter);
  query.set('limit', limit);
  return placeOf(`api/stream?${query}`);
}
