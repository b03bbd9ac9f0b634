// What the location's hash means: `#/locks?filter=x`, `#/services/chat`, `#/config/dev%2Flimits`.

/** The sections, and which view of the stream shows each, alone and for one name. */
export const SECTIONS = {
  locks: { title: 'Locks', view: 'locks' },
  elections: { title: 'Elections', view: 'elections' },
  semaphores: { title: 'Semaphores', view: 'semaphores' },
  services: { title: 'Services', view: 'services', named: 'instances' },
  ids: { title: 'Ids', view: 'ids', named: 'ids' },
  sessions: { title: 'Sessions', view: 'sessions' },
  config: { title: 'Configuration', view: 'config', named: 'document' },
  events: { title: 'Events', view: 'events' },
};

const FIRST = 'locks';

/**
 * @returns {{section: string, name: string|null, view: string, params: URLSearchParams}}
 *   `view` is "none" where there is no such section.
 */
export function parse(hash) {
  const [path, query = ''] = cut(hash.replace(/^#\/?/, ''), '?');
  const [section, rest = ''] = cut(path || FIRST, '/');
  const known = Object.hasOwn(SECTIONS, section) ? SECTIONS[section] : { view: 'none' };
  const name = rest !== '' && known.named ? decoded(rest) : null;
  const view = name === null ? known.view : known.named;
  return { section, name, view, params: new URLSearchParams(query) };
}

/** Parameters that are null or empty are left out. */
export function href(section, name = null, params = {}) {
  const path = name === null ? `#/${section}` : `#/${section}/${encodeURIComponent(name)}`;
  const query = Object.entries(params)
    .filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([key, value]) => `${key}=${encodeURIComponent(value)}`)
    .join('&');
  return query === '' ? path : `${path}?${query}`;
}

/** A link to the session, wherever one is mentioned. */
export function sessionHref(session) {
  return `#/sessions?filter=${encodeURIComponent(session)}`;
}

function cut(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + separator.length)];
}

/** What a person typed into the address bar may be no valid encoding: then it is taken as it is. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
