// How numbers, spans of time and text from strangers are written. Pure functions, no document.

const GROUPED = new Intl.NumberFormat('en-GB');

export function number(value) {
  return GROUPED.format(value);
}

/** "1 lock", "2 locks", "1,000 locks". */
export function plural(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** "12 s", "3 m 12 s", "5 h 2 m", "3 d 4 h": two units at most, cut and never rounded up. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} m ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h ${minutes % 60} m`;
  return `${number(Math.floor(hours / 24))} d ${hours % 24} h`;
}

/** A round trip: "0.42 ms", "12 ms", "1,250 ms". */
export function roundTrip(ms) {
  return `${ms < 10 ? ms.toFixed(2) : number(Math.round(ms))} ms`;
}

/** Whether a number is a moment that a date can express: stored data may hold anything. */
export function isMoment(ms) {
  return typeof ms === 'number' && Math.abs(ms) <= 8.64e15;
}

/** The moment on the person's own clock: "2024-02-03 10:07:09 +01:00". */
export function moment(ms) {
  const at = new Date(ms);
  const offset = -at.getTimezoneOffset();
  const shifted = new Date(ms + offset * 60_000);
  if (Number.isNaN(shifted.getTime())) return at.toISOString();
  const size = Math.abs(offset);
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
  return `${shifted.toISOString().slice(0, 19).replace('T', ' ')} ${zone}`;
}

/** "10:07:09" on the person's own clock. */
export function timeOfDay(ms) {
  return moment(ms).slice(11, 19);
}

function two(value) {
  return String(value).padStart(2, '0');
}

// What cannot be seen, or makes the rest look like something else: control characters, and format
// characters such as bidi overrides, zero-width spaces, soft hyphens and byte order marks.
const UNSEEN = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;
const ANY_UNSEEN = new RegExp(UNSEEN.source, 'u');
const SHORT = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

function escaped(character) {
  return SHORT[character] ?? `\\u{${character.codePointAt(0).toString(16).padStart(4, '0')}}`;
}

/**
 * Cuts text into pieces that are to be shown as they are and pieces that stand for a character
 * which cannot be seen. In a document (`breaks`) line feeds and tabs stay what they are.
 */
export function pieces(text, breaks = false) {
  if (!ANY_UNSEEN.test(text)) return text === '' ? [] : [{ text, escape: false }];
  const out = [];
  let from = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (breaks && (found[0] === '\n' || found[0] === '\t')) continue;
    if (found.index > from) out.push({ text: text.slice(from, found.index), escape: false });
    out.push({ text: escaped(found[0]), escape: true });
    from = found.index + found[0].length;
  }
  if (from < text.length) out.push({ text: text.slice(from), escape: false });
  return out;
}

/** The same as plain text, for titles and labels, and for what a person has to type. */
export function plain(text) {
  return text.replace(UNSEEN, escaped);
}

/** At most `size` characters of it. */
export function brief(text, size) {
  if (text.length <= size) return plain(text);
  return `${plain([...text].slice(0, size).join(''))}…`;
}

/** How many characters of a document an editor would not show. */
export function unseenIn(text) {
  return pieces(text, true).filter((piece) => piece.escape).length;
}
