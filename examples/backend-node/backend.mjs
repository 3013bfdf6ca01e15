// A backend of Tidegate: pushes by XADD and reads what clients send.
//
//   node backend.mjs --url redis://127.0.0.1:6380 publish --room 1 --user alice '{"text": "ahoy"}'
//   node backend.mjs --url redis://127.0.0.1:6380 listen

import { hostname } from "node:os";
import { parseArgs } from "node:util";
import { createClient } from "redis";

const GROUP = "backends";
// Entries that another worker took and did not finish for so long are taken over.
const TAKE_OVER_MS = 60_000;

const { values: options, positionals: [command, data] } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string", default: process.env.REDIS_URL ?? "redis://127.0.0.1:6380" },
    tenant: { type: "string", default: "demo" },
    room: { type: "string" },
    user: { type: "string" },
    "ttl-ms": { type: "string" },
    name: { type: "string", default: hostname() },
    count: { type: "string", default: "0" },
  },
});

/** A user's own channel; the id is percent-encoded. */
function personalChannel(user) {
  const encoded = encodeURIComponent(user).replace(/[!'()*]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase());
  return "user:" + encoded.replaceAll("%40", "@").replaceAll("%3D", "=");
}

async function publish(db) {
  const channels = [];
  if (options.room) channels.push(`room:${options.room}`);
  if (options.user) channels.push(personalChannel(options.user));
  if (!channels.length || data === undefined) throw new Error("say what and where to: publish --room NAME --user ID DATA");
  for (const channel of channels) {
    // `data` is the only field needed. An object or array in JSON reaches clients as such.
    const fields = { data, headers: JSON.stringify({ "ce-source": "/examples/backend-node" }) };
    if (options["ttl-ms"]) fields.ttl_ms = options["ttl-ms"];
    const offset = await db.xAdd(`tg:${options.tenant}:ch:${channel}`, "*", fields);
    console.log(channel, offset);
  }
}

async function listen(db) {
  const stream = `tg:${options.tenant}:up`;
  const count = Number(options.count);
  try {
    // From the start of the stream: what clients sent before the group was made counts too.
    await db.xGroupCreate(stream, GROUP, "0", { MKSTREAM: true });
  } catch (error) {
    if (!error.message.startsWith("BUSYGROUP")) throw error;
  }
  let handled = 0;
  // First what this worker read and never finished, then new entries; `>` means new.
  let position = "0";
  while (!count || handled < count) {
    let entries = (await db.xAutoClaim(stream, GROUP, options.name, TAKE_OVER_MS, "0-0", { COUNT: 10 })).messages;
    if (!entries.length) {
      const answer = await db.xReadGroup(GROUP, options.name, { key: stream, id: position }, { COUNT: 10, BLOCK: 5_000 });
      entries = answer?.[0]?.messages ?? [];
      if (position !== ">" && !entries.length) position = ">";
    }
    for (const entry of entries) {
      if (!entry) continue;
      handle(entry.id, entry.message);
      // Acknowledged when handled, not before: a crash means it comes again.
      await db.xAck(stream, GROUP, entry.id);
      handled++;
    }
  }
}

function handle(offset, fields) {
  const who = fields.user ?? "?";
  if (fields.event) console.log(offset, who, fields.event);
  else console.log(offset, who, `sends ${fields.topic ?? ""}: ${fields.data ?? ""}`);
}

const commands = { publish, listen };
if (!commands[command]) {
  console.error("usage: node backend.mjs [--url URL] [--tenant T] publish [--room NAME] [--user ID] [--ttl-ms N] DATA\n" +
    "       node backend.mjs [--url URL] [--tenant T] listen [--name WORKER] [--count N]");
  process.exit(2);
}
const db = createClient({ url: options.url, socket: { reconnectStrategy: false } });
db.on("error", () => {}); // the failing command says it
try {
  await db.connect();
  await commands[command](db);
  await db.close();
} catch (error) {
  console.error(`${options.url}: ${error.message || error.code || error}`);
  process.exitCode = 1;
  if (db.isOpen) db.destroy();
}
