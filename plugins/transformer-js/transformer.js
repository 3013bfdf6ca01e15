// Makes messages fit for everybody's eyes, on their way out: once a message, for all subscribers alike.
//
// What it answers depends on the message and the settings alone, as `on-deliver` asks for: no state, no clock.

import { get } from 'wasi:config/store@0.2.0-rc.1';
import { log } from 'wasi:logging/logging@0.1.0-draft';

const EMAIL = /[\w.+-]+@[\w-]+(\.[\w-]+)+/g;
const decoder = new TextDecoder();
const encoder = new TextEncoder();

export const onDeliver = {
  onDeliver(message) {
    const text = decoder.decode(message.data);
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      // No JSON: not ours to change.
      return { tag: 'accept' };
    }
    if (value === null || typeof value !== 'object' || Array.isArray(value)) return { tag: 'accept' };
    if (value.draft === true) {
      log('debug', 'draft', `${message.channel} ${message.offset.ms}-${message.offset.seq}`);
      return { tag: 'drop' };
    }
    for (const name of hidden()) delete value[name];
    const shown = masked(value);
    // A message's offset says when it was sent, on every node and every time it is delivered.
    shown.sent_at = new Date(Number(message.offset.ms)).toISOString();
    const headers = [['content-type', 'application/json']];
    return { tag: 'replace', val: { data: encoder.encode(JSON.stringify(shown)), headers } };
  },
};

/** Fields that subscribers do not get: the setting `hide`, names with commas between. */
function hidden() {
  const names = get('hide') ?? 'internal';
  return names.split(',').map((name) => name.trim()).filter(Boolean);
}

/** The value with e-mail addresses in all its texts masked. */
function masked(value) {
  if (typeof value === 'string') return value.replace(EMAIL, '•••');
  if (Array.isArray(value)) return value.map(masked);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, masked(inner)]));
}
