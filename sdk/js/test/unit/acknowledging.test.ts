import assert from "node:assert/strict";
import { test } from "node:test";
import type { Message } from "../../src/message.js";
import { collect, reconnect, start } from "../support/client.js";
import { settle } from "../support/world.js";

test("a message whose handler runs is not given again, and one that waits is given once", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1", { ack: "auto" });
  const got: unknown[] = [];
  let finish: () => void = () => undefined;
  room.on("message", (message) => {
    got.push(`${message.data} ${message.attempt}`);
    return new Promise<void>((resolve) => (finish = resolve));
  });
  await settle();
  node.publish("room:1", "a");
  node.publish("room:1", "b");
  await settle();
  assert.deepEqual(got, ["a 1"]);
  await reconnect(world);
  assert.deepEqual(got, ["a 1"], "it is in the handler");
  finish();
  await settle();
  assert.deepEqual(got, ["a 1", "b 2"]);
  finish();
  await settle();
  assert.equal(world.socket.of("ack").at(-1)!.offset, room.position!.offset);
  assert.equal(node.session.subs.get("room:1")!.flight.size, 0);
});

test("automatic: a handler that throws refuses its message, with pauses that grow", async () => {
  const { world, node, client, errors } = await start();
  const room = client.subscribe("room:1", { ack: "auto", nackDelayMs: 200 });
  let isBroken = true;
  const got: unknown[] = [];
  room.on("message", async ({ data, attempt }) => {
    if (isBroken && data === "bad") throw new Error(`attempt ${attempt}`);
    got.push(data);
  });
  await settle();
  const bad = node.publish("room:1", "bad");
  const good = node.publish("room:1", "good");
  await settle();
  assert.deepEqual(world.socket.of("nack"), [{ type: "nack", channel: "room:1", offset: bad, delay_ms: 200 }]);
  assert.deepEqual(got, ["good"]);
  assert.equal(world.socket.of("ack").length, 0, "a cumulative ack would cancel the nack");
  node.redeliver("room:1");
  await settle();
  assert.deepEqual(world.socket.of("nack").map(({ delay_ms }) => delay_ms), [200, 400]);
  isBroken = false;
  node.redeliver("room:1");
  await settle();
  assert.deepEqual(got, ["good", "bad"], "what was handled is not given again");
  assert.equal(world.socket.of("ack").at(-1)!.offset, good);
  assert.deepEqual(errors.map(({ code }) => code), ["handler_failed", "handler_failed"]);
  assert.match(errors[0]!.message, /room:1 threw at .*attempt 1/);
});

test("manual: the application says when, in any order", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1", { ack: "manual", window: 8 });
  const held: Message[] = [];
  room.on("message", (message) => void held.push(message));
  await settle();
  const offsets = ["a", "b", "c"].map((data) => node.publish("room:1", data));
  await settle();
  held[1]!.ack();
  assert.equal(world.socket.of("ack").length, 0);
  held[0]!.ack();
  held[0]!.ack();
  held[0]!.nack();
  assert.deepEqual(world.socket.of("ack").map(({ offset }) => offset), [offsets[1]]);
  assert.equal(world.socket.of("nack").length, 0, "it is settled once");
  held[2]!.nack(50);
  assert.deepEqual(world.socket.of("nack"), [{ type: "nack", channel: "room:1", offset: offsets[2], delay_ms: 50 }]);
  node.redeliver("room:1");
  await settle();
  assert.deepEqual([held.length, held[3]!.attempt, held[3]!.offset], [4, 2, offsets[2]]);
  held[3]!.ack();
  assert.equal(world.socket.of("ack").at(-1)!.offset, offsets[2]);
});

test("manual: what nobody acknowledged comes again", async () => {
  const { node, client } = await start();
  const seen: number[] = [];
  client.subscribe("room:1", { ack: "manual" }).on("message", ({ attempt }) => void seen.push(attempt));
  await settle();
  node.publish("room:1", "a");
  await settle();
  node.redeliver("room:1");
  await settle();
  assert.deepEqual(seen, [1, 2]);
});

test("acks that a broken connection may have swallowed are said again", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1", { ack: "auto" });
  const got = collect(room);
  await settle();
  node.deaf.add("ack");
  node.publish("room:1", "a");
  await settle();
  assert.equal(world.socket.of("ack").length, 1);
  node.deaf.clear();
  await reconnect(world);
  assert.deepEqual(got, ["a"]);
  assert.equal(node.session.subs.get("room:1")!.flight.size, 0);
});

test("while more messages wait, acks are put together", async () => {
  const { world, node, client } = await start();
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  client.subscribe("room:1", { ack: "auto" }).on("message", () => gate);
  await settle();
  for (let n = 0; n < 40; n++) node.publish("room:1", n);
  release();
  await settle();
  const acks = world.socket.of("ack");
  assert.ok(acks.length >= 2 && acks.length <= 4, `${acks.length} acks`);
  assert.equal(node.session.subs.get("room:1")!.flight.size, 0);
});

test("iteration: a message is handled when the next is asked for", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1", { ack: "auto" });
  await settle();
  const offsets = ["a", "b", "c"].map((data) => node.publish("room:1", data));
  const got: unknown[] = [];
  for await (const { data } of room) {
    got.push(data);
    if (data === "b") break;
  }
  await world.clock.advance(1_000);
  assert.deepEqual(world.socket.of("ack").map(({ offset }) => offset), [offsets[0]], "b was left in the middle");
  node.redeliver("room:1");
  const rest = (async () => {
    for await (const { data, attempt } of room) got.push(`${data} ${attempt}`);
  })();
  await settle();
  assert.deepEqual(got, ["a", "b", "b 2", "c 2"]);
  await room.unsubscribe();
  await rest;
  assert.ok(world.socket.of("unsubscribe").length === 1);
});

test("a message id that was handled is not handled again under another offset", async () => {
  const { world, client } = await start();
  const room = client.subscribe("room:1", { ack: "auto" });
  const got = collect(room);
  await settle();
  const frame = { type: "message", channel: "room:1", data: "x", enc: "text", attempt: 1, msg_id: "m1" } as const;
  world.socket.says({ ...frame, offset: "5-0" });
  world.socket.says({ ...frame, offset: "6-0" });
  world.socket.says({ ...frame, offset: "7-0", msg_id: "m2" });
  await settle();
  assert.deepEqual(got, ["x", "x"]);
  assert.equal(world.socket.of("ack").at(-1)!.offset, "7-0");
});

test("a message id whose handler failed is handled when it comes again", async () => {
  const { world, client } = await start();
  const tries: number[] = [];
  client.subscribe("room:1", { ack: "auto" }).on("message", ({ attempt }) => {
    tries.push(attempt);
    if (attempt === 1) throw new Error("not yet");
  });
  await settle();
  const frame = { type: "message", channel: "room:1", offset: "5-0", data: "x", enc: "text", msg_id: "m1" } as const;
  world.socket.says({ ...frame, attempt: 1 });
  await settle();
  world.socket.says({ ...frame, attempt: 2 });
  await settle();
  assert.deepEqual(tries, [1, 2]);
});

test("queues: each task is acknowledged alone, and goes back with the connection if nobody began it", async () => {
  const { world, client } = await start();
  const queue = client.subscribe("queue:orders", { queue: true, window: 2 });
  const begun: unknown[] = [];
  let finish: () => void = () => undefined;
  queue.on("message", ({ data }) => {
    begun.push(data);
    return new Promise<void>((resolve) => (finish = resolve));
  });
  await settle();
  assert.deepEqual(world.socket.of("subscribe")[0], { type: "subscribe", id: 1, channel: "queue:orders", ack: true, window: 2 });
  const task = (n: number) => ({ type: "message", channel: "queue:orders", offset: `${n}-0`, data: n, attempt: 1 }) as const;
  world.socket.says(task(9));
  world.socket.says(task(4));
  await settle();
  finish();
  await settle();
  assert.deepEqual(world.socket.of("ack").map(({ offset }) => offset), ["9-0"]);
  assert.deepEqual(begun, [9, 4]);
  world.socket.says(task(5));
  await reconnect(world);
  finish();
  await settle();
  assert.deepEqual(begun, [9, 4], "5 may be with somebody else");
  assert.deepEqual(world.socket.of("ack").map(({ offset }) => offset), ["4-0"]);
});

