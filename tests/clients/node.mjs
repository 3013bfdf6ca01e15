// Drives a RESP listener with ioredis and node-redis: node.mjs HOST PORT. Prints `ok`, or fails.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// Unlike import, require looks into NODE_PATH: the clients need not be installed beside this file.
const require = createRequire(import.meta.url);
const Redis = require("ioredis");
const { createClient } = require("redis");

const [host, port] = [process.argv[2], Number(process.argv[3])];
setTimeout(() => {
  console.error("took too long");
  process.exit(1);
}, 30_000).unref();

async function withIoredis() {
  const redis = new Redis({ host, port, maxRetriesPerRequest: 1 });
  const key = "tg:demo:ch:room:ioredis";
  assert.equal(await redis.ping(), "PONG");
  const first = await redis.xadd(key, "*", "data", "one");
  assert.match(first, /^\d+-\d+$/);
  const replies = await redis.multi().xadd(key, "*", "data", "two").xlen(key).exec();
  assert.equal(replies[1][1], 2);
  const piped = await redis.pipeline().xlen(key).xrange(key, "-", "+").exec();
  assert.deepEqual(piped[1][1][0], [first, ["data", "one"]]);

  const reader = redis.duplicate();
  const waiting = reader.xread("BLOCK", 5000, "STREAMS", key, "$");
  // The reader's `$` must stand before the addition: its connection has asked once this answers.
  while ((await redis.info("clients")).match(/connected_clients:(\d+)/)[1] < 2) await pause();
  await pause(100);
  await redis.xadd(key, "*", "data", "three");
  const [[name, entries]] = await waiting;
  assert.equal(name, key);
  assert.deepEqual(entries[0][1], ["data", "three"]);
  reader.disconnect();

  await redis.xgroup("CREATE", key, "g", "0");
  await assert.rejects(redis.xgroup("CREATE", key, "g", "0"), /BUSYGROUP/);
  const [[, given]] = await redis.xreadgroup("GROUP", "g", "a", "COUNT", 2, "STREAMS", key, ">");
  assert.equal(given.length, 2);
  assert.equal((await redis.xpending(key, "g"))[0], 2);
  const [next, claimed] = await redis.xautoclaim(key, "g", "b", 0, "0-0");
  assert.equal(next, "0-0");
  assert.equal(claimed.length, 2);
  assert.equal(await redis.xack(key, "g", ...claimed.map(([id]) => id)), 2);
  await assert.rejects(redis.call("TIDEGATE.NONE"), /unknown command/);
  assert.equal(await redis.del(key), 1);
  await redis.quit();
}

async function withNodeRedis(RESP) {
  const redis = await createClient({ RESP, socket: { host, port, reconnectStrategy: false } }).connect();
  const key = `tg:demo:ch:room:node-redis-${RESP}`;
  assert.equal(await redis.ping(), "PONG");
  const first = await redis.xAdd(key, "*", { data: "one" });
  const [, length] = await redis.multi().xAdd(key, "*", { data: "two" }).xLen(key).exec();
  assert.equal(length, 2);
  assert.deepEqual({ ...(await redis.xRange(key, "-", "+"))[0].message }, { data: "one" });
  assert.equal((await redis.xInfoStream(key))["length"], 2);

  const reader = await redis.duplicate().connect();
  const waiting = reader.xRead({ key, id: "$" }, { BLOCK: 5000 });
  await pause(100);
  await redis.xAdd(key, "*", { data: "three" });
  assert.equal(messages(await waiting, key)[0].message.data, "three");
  assert.equal(await reader.xRead({ key, id: "$" }, { BLOCK: 20 }), null);
  reader.destroy();

  await redis.xGroupCreate(key, "g", "0");
  const given = messages(await redis.xReadGroup("g", "a", { key, id: ">" }, { COUNT: 2 }), key);
  assert.equal(given[0].id, first);
  assert.equal((await redis.xPending(key, "g")).pending, 2);
  const claimed = await redis.xAutoClaim(key, "g", "b", 0, "0-0");
  assert.equal(claimed.messages.length, 2);
  assert.equal((await redis.xInfoGroups(key))[0].name, "g");
  assert.equal(await redis.xAck(key, "g", given.map(({ id }) => id)), 2);
  assert.equal(await redis.del(key), 1);
  await redis.close();
}

// RESP2 gives a list of streams; RESP3 a map in some versions of the client.
function messages(reply, key) {
  return Array.isArray(reply) ? reply.find(({ name }) => name === key).messages : reply[key];
}

function pause(ms = 5) {
  return new Promise((done) => setTimeout(done, ms));
}

await withIoredis();
for (const RESP of [2, 3]) await withNodeRedis(RESP);
console.log("ok");
