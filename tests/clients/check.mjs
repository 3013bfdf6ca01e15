// What a backend does with ioredis and node-redis, against the URL in argv.

import assert from "node:assert/strict";
import { Redis } from "ioredis";
import { createClient } from "redis";

const url = process.argv[2];
const stream = (name) => `tg:demo:ch:room:check-${name}`;

async function ioredis() {
  const db = new Redis(url, { maxRetriesPerRequest: 1 });
  const key = stream("ioredis");
  await db.del(key);
  const first = await db.xadd(key, "*", "data", "one");
  const answers = await db.pipeline().xadd(key, "*", "data", "two").xlen(key).exec();
  assert.deepEqual(answers[1], [null, 2]);
  assert.equal((await db.multi().xadd(key, "*", "data", "three").exec()).length, 1);
  assert.deepEqual((await db.xrange(key, "-", "+", "COUNT", 1)), [[first, ["data", "one"]]]);
  await db.xgroup("CREATE", key, "g", "0");
  const [[, entries]] = await db.xreadgroup("GROUP", "g", "a", "COUNT", 10, "STREAMS", key, ">");
  assert.equal(entries.length, 3);
  assert.equal(await db.xack(key, "g", ...entries.map(([offset]) => offset)), 3);
  await db.del(key);
  db.disconnect();
}

async function blocking() {
  const db = new Redis(url), reader = new Redis(url);
  const key = stream("blocking");
  await db.del(key);
  const from = await db.xadd(key, "*", "data", "before");
  const waiting = reader.xread("BLOCK", 5000, "STREAMS", key, from);
  const added = await db.xadd(key, "*", "data", "after");
  const [[, entries]] = await waiting;
  assert.deepEqual(entries, [[added, ["data", "after"]]]);
  await db.del(key);
  db.disconnect();
  reader.disconnect();
}

async function nodeRedis(RESP) {
  const db = createClient({ url, RESP, socket: { reconnectStrategy: false } });
  db.on("error", () => {});
  await db.connect();
  const key = stream(`node-redis-${RESP}`);
  await db.del(key);
  const first = await db.xAdd(key, "*", { data: "one" });
  const [second, length] = await db.multi().xAdd(key, "*", { data: "two" }).xLen(key).exec();
  assert.equal(length, 2);
  const entries = await db.xRange(key, "-", "+");
  assert.deepEqual(entries.map((entry) => [entry.id, entry.message.data]), [[first, "one"], [second, "two"]]);
  await db.xGroupCreate(key, "g", "0");
  const taken = await db.xReadGroup("g", "a", { key, id: ">" }, { COUNT: 10 });
  assert.equal(JSON.stringify(taken).includes(second), true);
  assert.equal(await db.xAck(key, "g", [first, second]), 2);
  await Promise.all(Array.from({ length: 100 }, (_, n) => db.xAdd(key, "*", { data: String(n) })));
  assert.equal(await db.xLen(key), 102);
  await assert.rejects(db.sendCommand(["NOSUCHCOMMAND"]), /unknown command/);
  await db.del(key);
  await db.close();
}

await ioredis();
await blocking();
await nodeRedis(2);
await nodeRedis(3);
console.log("ok");
