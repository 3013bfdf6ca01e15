import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, watch } from "../support/client.js";
import { Node } from "../support/node.js";
import { settle, World } from "../support/world.js";

test("publications wait for a connection, and go in order", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = watch(world);
  const all = [1, 2, 3].map((n) => client.publish("room:1", n, { key: "k" }));
  await client.connect();
  const offsets = (await Promise.all(all)).map(({ offset }) => offset);
  assert.deepEqual(node.logs.get("room:1")!.map(({ offset }) => offset), offsets);
  assert.deepEqual(node.logs.get("room:1")!.map(({ data }) => data), [1, 2, 3]);
  const ids = world.socket.of("publish").map(({ msg_id }) => msg_id);
  assert.equal(new Set(ids).size, 3);
  assert.match(ids[0]!, /^[0-9a-f]{32}$/);
  assert.equal(world.socket.of("publish")[0]!.key, "k");
});

test("without a reply a publication is sent again, under the same key", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  // It is stored, and the reply gets lost.
  node.deaf.add("publish");
  const waiting = client.publish("room:1", "once");
  await settle();
  const [frame] = world.socket.of("publish");
  node.publish("room:1", "once", { msg_id: frame!.msg_id! });
  node.deaf.clear();
  world.socket.breaks();
  await world.clock.advance(1_000);
  const { offset } = await waiting;
  assert.deepEqual(node.logs.get("room:1")!.map((entry) => entry.offset), [offset]);
  assert.equal(world.socket.of("publish")[0]!.msg_id, frame!.msg_id);
});

test("a publication that a draining node did not answer is sent to the next", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.deaf.add("publish");
  const waiting = client.publish("room:1", "x");
  world.socket.says({ type: "drain", retry_after_ms: 100 });
  await settle();
  node.deaf.clear();
  await world.clock.advance(100);
  assert.equal(world.sockets.length, 2);
  await waiting;
  assert.equal(node.logs.get("room:1")!.length, 1);
});

test("what may not be sent twice fails when the connection breaks before the reply", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.deaf.add("send");
  const lost = assert.rejects(client.send({ order: 1 }, { topic: "orders" }), { code: "connection_lost", isRetryable: true });
  await settle();
  world.socket.breaks();
  await lost;
  const waits = client.send("later");
  node.deaf.clear();
  await world.clock.advance(1_000);
  await waits;
  assert.deepEqual(world.socket.of("send").map(({ data }) => data), ["later"]);
});

test("more than may wait is refused, by number and by bytes, and room comes back", async () => {
  const world = new World();
  new Node(world);
  const { client } = watch(world, { maxQueued: 3, maxQueuedBytes: 10_000 });
  const waiting = [1, 2, 3].map((n) => client.publish("room:1", n));
  await assert.rejects(client.publish("room:1", 4), { code: "queue_full", message: /maxQueued \(3\)/ });
  await client.connect();
  await Promise.all(waiting);
  await client.publish("room:1", 4);
  await client.close();
  const bytes = watch(world, { maxQueuedBytes: 10_000 }).client;
  void bytes.publish("room:1", "x".repeat(9_000)).catch(() => undefined);
  await assert.rejects(bytes.publish("room:1", "x".repeat(2_000)), { code: "queue_full", message: /maxQueuedBytes \(10000\)/ });
});

test("only so many wait for replies at one time", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.deaf.add("publish");
  const all = Array.from({ length: 50 }, (_, n) => client.publish("room:1", n));
  await settle();
  assert.equal(world.socket.of("publish").length, 32);
  for (const { id } of world.socket.of("publish")) world.socket.says({ type: "ok", id, offset: `${id}-0` });
  await settle();
  assert.equal(world.socket.of("publish").length, 50);
  for (const { id } of world.socket.of("publish").slice(32)) world.socket.says({ type: "ok", id, offset: `${id}-0` });
  assert.equal((await Promise.all(all)).length, 50);
});

test("a reply that does not come is a timeout, offline time included", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = watch(world, { timeoutMs: 5_000 });
  const offline = assert.rejects(client.publish("room:1", 1), { code: "timeout", message: /was not sent/ });
  await world.clock.advance(5_000);
  await offline;
  await client.connect();
  node.deaf.add("publish");
  const unanswered = assert.rejects(client.publish("room:1", 2), { code: "timeout", message: /not known/ });
  const patient = client.publish("room:1", 3, { timeoutMs: 0 });
  await world.clock.advance(20_000);
  await unanswered;
  const { id } = world.socket.of("publish").at(-1)!;
  world.socket.says({ type: "ok", id, offset: "5-0" });
  assert.deepEqual(await patient, { offset: "5-0" });
});

test("the server's refusals come as errors with its code", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.deaf.add("publish").add("presence");
  const refused = client.publish("room:1", 1);
  await settle();
  world.socket.says({ type: "error", id: world.socket.of("publish")[0]!.id, code: "forbidden", message: "not yours" });
  await assert.rejects(refused, { name: "TidegateError", code: "forbidden", message: "not yours", isRetryable: false });
  const presence = client.presence("room:1");
  await settle();
  world.socket.says({ type: "error", id: world.socket.of("presence")[0]!.id, code: "unsupported", message: "none is kept" });
  await assert.rejects(presence, { code: "unsupported" });
});

test("to a channel that is being subscribed to, publications wait for that", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.deaf.add("subscribe");
  client.subscribe("room:1");
  const waiting = client.publish("room:1", "x");
  await client.publish("room:2", "y");
  assert.deepEqual(world.socket.of("publish").map(({ channel }) => channel), ["room:2"]);
  const { id } = world.socket.of("subscribe")[0]!;
  world.socket.says({ type: "subscribed", id, channel: "room:1", offset: "0-0", epoch: "e" });
  await waiting;
});

test("a publication does not wait for a subscription that was refused", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.forbidden.add("room:1");
  client.subscribe("room:1");
  await client.publish("room:1", "x");
});

test("history gives entries with their payloads", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  node.publish("room:1", "/wD+", { enc: "base64", key: "k", msg_id: "m" });
  const { entries, epoch } = await client.history("room:1", { limit: 5, after: "0-0" });
  assert.deepEqual(world.socket.of("history")[0], { type: "history", id: 1, channel: "room:1", limit: 5, after: "0-0" });
  assert.equal(epoch, node.epoch);
  assert.deepEqual(entries.map(({ data, key, msgId, headers }) => ({ data, key, msgId, headers })), [
    { data: new Uint8Array([255, 0, 254]), key: "k", msgId: "m", headers: {} },
  ]);
});

test("a payload that cannot be sent rejects at once", async () => {
  const { client } = watch(new World());
  await assert.rejects(client.publish("room:1", undefined), { code: "invalid" });
  await assert.rejects(client.send(() => 1), { code: "invalid" });
});
