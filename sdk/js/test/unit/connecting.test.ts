import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, watch } from "../support/client.js";
import { Node } from "../support/node.js";
import { settle, World } from "../support/world.js";

test("connecting offers the subprotocol and says `connect` first", async () => {
  const world = new World();
  new Node(world);
  const { client, states } = await connected(world, { device: "tablet", token: "t", pingMs: 20_000 });
  assert.equal(world.socket.url, "ws://a.test/v1/demo/ws");
  assert.deepEqual(world.socket.protocols, ["tidegate.v1.json"]);
  assert.deepEqual(world.socket.sent, [{ type: "connect", token: "t", device: "tablet", ping_ms: 20_000 }]);
  assert.deepEqual(states, ["connecting", "connected"]);
  assert.equal(client.connection?.session, "s1");
  assert.equal(client.connection?.transport, "websocket");
  await client.close();
  assert.equal(world.socket.closedWith, 1000, "a goodbye");
  assert.equal(client.state, "closed");
  assert.equal(world.listeners, 0);
});

test("a broken connection is resumed after a jittered pause", async () => {
  const world = new World();
  const node = new Node(world);
  const { client, pauses } = await connected(world, { device: false });
  world.socket.breaks();
  await settle();
  assert.equal(client.state, "waiting");
  assert.deepEqual(pauses, [500]);
  await world.clock.advance(499);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  assert.equal(client.state, "connected");
  assert.deepEqual(node.connects.map(({ resume }) => resume), [undefined, "s1 1"]);
  assert.equal(client.connection?.resumed, "home");
});

test("pauses grow while nothing answers, and are short again after a connection that lasted", async () => {
  const world = new World();
  world.randomness = 0.999999;
  world.onSocket = (socket) => socket.breaks();
  const { client, pauses } = watch(world);
  void client.connect();
  await world.clock.advance(300_000);
  assert.deepEqual(pauses.slice(0, 8), [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
  new Node(world);
  while (client.state !== "connected") await world.clock.advance(1000);
  await world.clock.advance(8_000);
  world.socket.breaks();
  await settle();
  assert.equal(pauses.at(-1), 60_000, "it did not last");
  await world.clock.advance(60_000);
  await world.clock.advance(10_000);
  world.socket.breaks();
  await settle();
  assert.equal(pauses.at(-1), 1000, "it did");
});

test("4000 to 4099 end it, with the reason", async () => {
  const world = new World();
  new Node(world);
  const { client, pauses } = await connected(world);
  world.socket.says({ type: "disconnect", code: 4006, reason: "kicked", message: "by an operator", reconnect: false });
  await world.clock.advance(600_000);
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(pauses, [undefined]);
  await assert.rejects(client.publish("room:1", 1), { code: "refused" });
});

test("a refusal rejects `connect`", async () => {
  const world = new World();
  world.onSocket = (socket) => {
    socket.onFrame = () => socket.says({ type: "disconnect", code: 4003, reason: "unknown_tenant" });
    socket.open();
  };
  const { client } = watch(world);
  const refused = assert.rejects(client.connect(), { code: "refused", closeCode: 4003 });
  await settle();
  await refused;
});

test("4200 to 4299 come back at once, or after the server's pause, to its address", async () => {
  const world = new World();
  const node = new Node(world);
  const { client, pauses } = await connected(world);
  world.socket.says({ type: "disconnect", code: 4201, reason: "moved", url: "http://b.test/", retry_after_ms: 300 });
  await world.clock.advance(300);
  assert.equal(client.state, "connected");
  assert.equal(world.socket.url, "ws://b.test/v1/demo/ws");
  world.socket.breaks(4200);
  await world.clock.advance(0);
  assert.equal(client.state, "connected", "the close code alone tells enough");
  assert.deepEqual(pauses, [300, 0]);
  assert.equal(node.connects.length, 3);
});

test("4100 to 4199 back off, at least as long as asked, whatever wakes the page", async () => {
  const world = new World();
  new Node(world);
  const { client, pauses } = await connected(world);
  world.socket.says({ type: "disconnect", code: 4106, reason: "not_now", retry_after_ms: 20_000 });
  await settle();
  world.wakes("network");
  world.wakes("visible");
  await world.clock.advance(19_999);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  assert.equal(client.state, "connected");
  assert.deepEqual(pauses, [20_000]);
});

test("a wake-up ends a pause of one's own, but not within a second", async () => {
  const world = new World();
  world.randomness = 1;
  world.onSocket = (socket) => socket.breaks();
  const { client } = watch(world);
  void client.connect();
  await world.clock.advance(31_000);
  assert.equal(world.sockets.length, 6, "at 0, 1, 3, 7, 15 and 31 s; the next is due at 63 s");
  world.wakes("network");
  await world.clock.advance(999);
  assert.equal(world.sockets.length, 6);
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 7);
  new Node(world);
  await world.clock.advance(5_000);
  world.wakes("visible");
  await settle();
  assert.equal(client.state, "connected");
});

test("on `drain` the next connection is opened after the pause, and the old one let go without a goodbye", async () => {
  const world = new World();
  const node = new Node(world);
  const { client, states } = await connected(world);
  const room = client.subscribe("room:1", { ack: "manual" });
  const got: string[] = [];
  room.on("message", (message) => {
    got.push(message.data as string);
    message.ack();
  });
  await settle();
  const old = world.socket;
  old.says({ type: "drain", retry_after_ms: 2400 });
  await world.clock.advance(2399);
  assert.equal(world.sockets.length, 1);
  node.publish("room:1", "before");
  await settle();
  assert.equal(old.of("ack").length, 1, "the old one is still good for acks");
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 2);
  assert.equal(old.closedWith, 3000);
  node.publish("room:1", "after");
  await settle();
  assert.deepEqual(got, ["before", "after"]);
  assert.deepEqual(states, ["connecting", "connected"], "nothing was interrupted");
});

test("a drained node that says goodbye first is not asked sooner than it said", async () => {
  const world = new World();
  new Node(world);
  const { client, pauses } = await connected(world);
  world.socket.says({ type: "drain", retry_after_ms: 5000, url: "http://b.test" });
  await world.clock.advance(1000);
  world.socket.says({ type: "disconnect", code: 4200, reason: "drain" });
  await world.clock.advance(3999);
  assert.equal(client.state, "waiting");
  assert.deepEqual(pauses, [4000]);
  await world.clock.advance(1);
  assert.equal(client.state, "connected");
  assert.equal(world.socket.url, "ws://b.test/v1/demo/ws");
});

test("a client that is kicked while it waits for a drain stays away", async () => {
  const world = new World();
  new Node(world);
  const { client } = await connected(world);
  world.socket.says({ type: "drain", retry_after_ms: 5000 });
  await settle();
  world.socket.says({ type: "disconnect", code: 4006, reason: "kicked" });
  await world.clock.advance(60_000);
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 1);
});

test("all addresses are tried, and the one that worked comes first", async () => {
  const world = new World();
  const node = new Node(world);
  world.onSocket = (socket) => (socket.url.startsWith("ws://a.") ? socket.breaks() : node.accept(socket));
  const url = ["http://a.test", "http://b.test"];
  const { client } = await connected(world, { url });
  assert.deepEqual(world.sockets.map((socket) => socket.url), ["ws://a.test/v1/demo/ws", "ws://b.test/v1/demo/ws"]);
  world.socket.breaks();
  await world.clock.advance(500);
  assert.equal(world.socket.url, "ws://b.test/v1/demo/ws");
  assert.equal(world.sockets.length, 3);
  await client.close();

  await connected(world, { url });
  assert.equal(world.socket.url, "ws://b.test/v1/demo/ws", "a new client of the same origin knows it, too");
  world.network = "cellular";
  await connected(world, { url });
  assert.deepEqual(world.sockets.slice(-2).map((socket) => new URL(socket.url).host), ["a.test", "b.test"], "in another network all are asked again");
});

test("a connection that does not open, or is not answered, is given up", async () => {
  const world = new World();
  world.onSocket = () => undefined;
  const { client, pauses } = watch(world);
  void client.connect();
  await world.clock.advance(10_000);
  assert.deepEqual(pauses, [500]);
  assert.equal(world.socket.closedWith, 3000);
  world.onSocket = (socket) => socket.open();
  await world.clock.advance(500);
  assert.equal(world.socket.sent.length, 1);
  await world.clock.advance(10_000);
  assert.equal(pauses.length, 2);
});

test("silence is looked into, and ends a connection that is dead", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  await world.clock.advance(19_999);
  assert.equal(world.socket.of("ping").length, 0);
  await world.clock.advance(1);
  assert.equal(world.socket.of("ping").length, 1, "at 0.8 of 25 s");
  await world.clock.advance(15_000);
  assert.equal(client.state, "connected", "the pong was heard");
  node.deaf.add("ping");
  await world.clock.advance(14_999);
  assert.equal(world.socket.of("ping").length, 2);
  assert.equal(client.state, "connected");
  await world.clock.advance(1);
  assert.equal(client.state, "waiting", "10 s after the ping it is taken for dead");
  await world.clock.advance(500);
  assert.equal(world.sockets[0]!.closedWith, 3000);
  assert.equal(node.connects[1]!.ping_ms, 12_500, "and shorter intervals are wished for");
});

test("traffic is as good as an answer, and costs no pings", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world);
  client.subscribe("room:1").on("message", () => undefined);
  await settle();
  for (let second = 0; second < 60; second++) {
    node.publish("room:1", second);
    await world.clock.advance(1000);
  }
  assert.equal(world.socket.of("ping").length, 0);
  assert.equal(client.state, "connected");
});

test("a page that becomes visible asks at once, and waits five seconds", async () => {
  const world = new World();
  const node = new Node(world);
  await connected(world);
  node.deaf.add("ping");
  world.wakes("visible");
  world.wakes("network");
  assert.equal(world.socket.of("ping").length, 1);
  await world.clock.advance(5_000);
  await world.clock.advance(500);
  assert.equal(world.sockets.length, 2);
});

test("a client that closes while it connects opens nothing any more", async () => {
  const world = new World();
  const { client } = watch(world);
  const refused = assert.rejects(client.connect(), { code: "closed" });
  await client.close();
  await world.clock.advance(60_000);
  await refused;
  assert.equal(world.sockets.length, 0);
  const second = watch(world);
  const opening = assert.rejects(second.client.connect(), { code: "closed" });
  await settle();
  assert.equal(world.sockets.length, 1);
  await second.client.close();
  await world.clock.advance(60_000);
  await opening;
  assert.equal(world.sockets.length, 1);
  assert.equal(world.socket.closedWith, 3000);
  assert.equal(world.clock.pending, 0);
});

test("a closed client can connect again", async () => {
  const world = new World();
  new Node(world);
  const { client } = await connected(world);
  await client.close();
  void client.connect();
  await settle();
  assert.equal(client.state, "connected");
  assert.equal(world.socket.of("connect")[0]!.resume, undefined, "the old session said goodbye");
});

test("what is no frame ends the connection, and unknown frames do not", async () => {
  const world = new World();
  new Node(world);
  const { client, errors } = await connected(world);
  world.socket.says({ type: "later-version" } as never);
  await settle();
  assert.equal(client.state, "connected");
  for (const junk of ["{", "[]", "4", "null", '"x"', "{}"]) {
    world.socket.onmessage?.({ data: junk });
    await settle();
    assert.equal(client.state, "waiting", junk);
    await world.clock.advance(60_000);
    assert.equal(client.state, "connected", junk);
  }
  assert.deepEqual(errors, []);
});

test("wrong options are told in words", () => {
  const world = new World();
  const wrong: [object, RegExp][] = [
    [{ tenant: "Demo!" }, /`tenant`/],
    [{ url: "nonsense" }, /base address/],
    [{ url: [] }, /`url` is missing/],
    [{ transports: ["carrier-pigeon"] }, /`transports` lists/],
    [{ transports: [] }, /`transports` lists/],
    [{ headStartMs: -1 }, /`headStartMs`/],
    [{ timeoutMs: Number.NaN }, /`timeoutMs`/],
    [{ transports: ["webtransport"] }, /there is none of webtransport here/],
  ];
  for (const [options, words] of wrong) assert.throws(() => watch(world, options), { name: "TidegateError", message: words });
});
