// Questions in a <dialog>: what is about to happen, some fields, and a button that does it.

import { hasToken, setToken } from './api.js';
import { button, dim, el } from './dom.js';

/**
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {string} [value]
 * @property {string[]} [accepts] the texts one of which has to be typed
 */

/**
 * Asks, and calls `act` with what was typed. If that fails the question stays, says why, and can be
 * answered again. With `token` it asks for the token too, unless it is known.
 * @param {{title: string, body: Node[], fields?: Field[], token?: boolean, submit: string,
 *   style?: string, act: (values: Record<string, string>) => unknown}} question
 */
export function ask({ title, body, fields = [], token = false, submit, style = '', act }) {
  const rows = fields.map(makeField);
  const secret = makeSecret();
  const trouble = el('p', { class: 'notice bad', role: 'alert', hidden: true });
  const go = el('button', { type: 'submit', class: `main ${style}` }, submit);
  const heading = el('h2', { id: 'question' }, title);
  const form = el('form', { autocomplete: 'off' }, heading, ...body,
    ...rows.map((row) => row.node), secret.node, trouble,
    el('p', { class: 'buttons' }, button('Cancel', () => dialog.close()), go));
  const dialog = el('dialog', { 'aria-labelledby': 'question' }, form);
  let busy = false;

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    trouble.hidden = true;
    go.classList.add('busy');
    if (token && !hasToken()) setToken(secret.value());
    try {
      await act(Object.fromEntries(rows.map((row) => [row.name, row.value()])));
      dialog.close();
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
      secret.want(token && !hasToken());
    } finally {
      busy = false;
      go.classList.remove('busy');
    }
  });
  dialog.addEventListener('close', () => dialog.remove());

  secret.want(token && !hasToken());
  document.body.append(dialog);
  dialog.showModal();
  form.querySelector('label:not([hidden]) input')?.focus();
}

function makeField({ name, label, value = '', accepts }) {
  const input = el('input', { type: 'text', value, required: true, spellcheck: 'false' });
  if (accepts) {
    const check = () => input.setCustomValidity(
      accepts.includes(input.value) ? '' : 'This is not the name.');
    input.addEventListener('input', check);
    check();
  }
  return {
    name,
    node: el('label', { class: 'field' }, el('span', {}, label), input),
    value: () => input.value,
  };
}

/**
 * The field for the token. It is no password field, because browsers offer to store what is typed
 * into one; the style sheet hides the characters.
 */
function makeSecret() {
  const input = el('input', { type: 'text', class: 'secret', spellcheck: 'false' });
  const node = el('label', { class: 'field' },
    el('span', {}, 'Token ', dim('(kept until this tab is closed)')), input);
  return {
    node,
    value: () => input.value,
    want(wanted) {
      node.hidden = !wanted;
      input.required = wanted;
      if (wanted) input.value = '';
    },
  };
}
