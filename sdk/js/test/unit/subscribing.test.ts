import assert from "node:assert/strict";
import { test } from "node:test";
import { collect, connected, reconnect, start, watch } from "../support/client.js";
import { Node } from "../support/node.js";
import { seeded } from "../support/random.js";
import { settle, World } from "../support/world.js";

test("a subscription from before the connection is asked for on it, and its messages come in order", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = watch(world);
  const room = client.subscribe<{ n: number }>("room:1");
  void client.connect();
  assert.deepEqual((await room.ready).channel, "room:1");
  const got: number[] = [];
  for (let n = 0; n < 5; n++) node.publish("room:1", { n });
  room.on("message", async ({ data }) => {
    await settle();
    got.push(data.n);
  });
  while (got.length < 5) await settle();
  assert.deepEqual(got, [0, 1, 2, 3, 4]);
});

test("after a break, a position brings everything that was not handled, and nothing twice", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1");
  const got = collect(room);
  await settle();
  node.publish("room:1", "one");
  await settle();
  world.socket.breaks();
  node.publish("room:1", "two");
  await world.clock.advance(1_000);
  const asked = node.connects[1]!.subs!;
  assert.deepEqual(asked, [{ channel: "room:1", offset: room.position!.offset.replace("2-", "1-"), epoch: node.epoch }]);
  assert.deepEqual(got, ["one", "two"]);
});

test("iteration ends with the client, and throws where the server refuses", async () => {
  const { node, client, errors } = await start();
  const ended = (async () => {
    for await (const _ of client.subscribe("room:1")) assert.fail("nothing was published");
  })();
  node.forbidden.add("room:secret");
  const secret = client.subscribe("room:secret");
  const refused = (async () => {
    for await (const _ of secret) assert.fail("nothing was published");
  })();
  await assert.rejects(refused, { code: "forbidden" });
  await assert.rejects(secret.ready, { code: "forbidden" });
  assert.deepEqual(errors.map(({ code }) => code), ["forbidden"]);
  await client.close();
  await ended;
});

test("a subscription that is refused when its client comes back is told, and the others stay", async () => {
  const { world, node, client } = await start();
  const [first, second] = [client.subscribe("room:1"), client.subscribe("room:2")];
  const errors: string[] = [];
  first.on("error", (error) => errors.push(error.code));
  const got = collect(second);
  await settle();
  node.forbidden.add("room:1");
  node.sessions.clear();
  await reconnect(world);
  assert.deepEqual(errors, ["forbidden"]);
  node.publish("room:2", "still here");
  await settle();
  assert.deepEqual(got, ["still here"]);
  await reconnect(world);
  assert.deepEqual(node.connects.at(-1)!.subs!.map(({ channel }) => channel), ["room:2"]);
});

test("`unavailable` is asked again after a pause", async () => {
  const { world, node, client } = await start();
  node.deaf.add("subscribe");
  const room = client.subscribe("room:1");
  await settle();
  const { id } = world.socket.of("subscribe")[0]!;
  world.socket.says({ type: "error", id, code: "unavailable", message: "the backbone is away" });
  node.deaf.clear();
  await world.clock.advance(2_000);
  assert.equal(room.isActive, true);
});

test("a channel may be renamed by the server, and messages that come with `subscribed` are not lost", async () => {
  const { world, node, client } = await start();
  node.deaf.add("subscribe");
  const room = client.subscribe("room:any");
  const got = collect(room);
  await settle();
  const { id } = world.socket.of("subscribe")[0]!;
  world.socket.says({ type: "subscribed", id, channel: "room:7", offset: "1-0", epoch: "e" });
  world.socket.says({ type: "message", channel: "room:7", offset: "2-0", data: "x", enc: "text", attempt: 1 });
  await settle();
  assert.equal(room.channel, "room:7");
  assert.deepEqual(got, ["x"]);
});

test("gaps and positions are told, and kept", async () => {
  const { world, client } = await start();
  const room = client.subscribe("room:1");
  const [gaps, positions]: [unknown[], unknown[]] = [[], []];
  room.on("gap", (gap) => gaps.push(gap));
  room.on("position", (position) => positions.push(position));
  await settle();
  const gap = { channel: "room:1", after: "5-0", until: "9-0", epoch: "e2", reason: "trimmed" };
  world.socket.says({ type: "gap", ...gap });
  world.socket.says({ type: "position", channel: "room:1", offset: "12-0", epoch: "e2" });
  assert.deepEqual(gaps, [gap]);
  assert.deepEqual(positions, [{ offset: "9-0", epoch: "e2" }, { offset: "12-0", epoch: "e2" }]);
  await reconnect(world);
  assert.deepEqual(world.socket.of("connect")[0]!.subs, [{ channel: "room:1", offset: "12-0", epoch: "e2" }]);
});

test("whether everything was recovered is told", async () => {
  const { world, client } = await start();
  const room = client.subscribe("room:1", { position: { offset: "1-0", epoch: "old" } });
  const told: (boolean | undefined)[] = [];
  room.on("subscribed", ({ recovered }) => told.push(recovered));
  assert.equal((await room.ready).recovered, true);
  assert.deepEqual(world.socket.of("subscribe")[0], { type: "subscribe", id: 1, channel: "room:1", offset: "1-0", epoch: "old" });
  await reconnect(world);
  world.socket.says({ type: "subscribed", channel: "room:1", offset: "1-0", epoch: "new", recovered: false });
  assert.deepEqual(told, [true, false]);
});

test("a slow application leaves what comes in the log, and fetches it later", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1", { maxBuffered: 3 });
  await settle();
  for (let n = 0; n < 20; n++) node.publish("room:1", n);
  await settle();
  const got = collect(room);
  await settle();
  assert.deepEqual(got, Array.from({ length: 20 }, (_, n) => n), "all of them, in order, each once");
  assert.ok(world.socket.of("unsubscribe").length >= 1);
});

test("unsubscribing without a connection is made good when the session was kept", async () => {
  const { world, node, client } = await start();
  const room = client.subscribe("room:1");
  await settle();
  world.socket.breaks();
  await room.unsubscribe();
  await world.clock.advance(1_000);
  assert.deepEqual([...node.session.subs.keys()], ["user:ann"]);
  const again = client.subscribe("room:1");
  await settle();
  assert.equal(again.isActive, true);
});

test("one subscription a channel, and names are checked", async () => {
  const { client } = await start();
  client.subscribe("room:1");
  assert.throws(() => client.subscribe("room:1"), { code: "invalid", message: /already/ });
  for (const wrong of ["", "room", "Room:1", ":x", "room:"]) assert.throws(() => client.subscribe(wrong), { code: "invalid" }, wrong);
  for (let n = 2; n <= 128; n++) client.subscribe(`room:${n}`);
  assert.throws(() => client.subscribe("room:129"), { code: "limit_exceeded" });
});

test("wrong options are told in words", async () => {
  const { client } = await start();
  const wrong: [object, RegExp][] = [
    [{ ack: true }, /`ack` is "none", "auto" or "manual", not true/],
    [{ window: 0 }, /`window`/],
    [{ maxBuffered: 0.5 }, /`maxBuffered` is a whole number from 1/],
    [{ position: { offset: "now" } }, /`position`/],
    [{ nackDelayMs: -1 }, /`nackDelayMs`/],
  ];
  for (const [options, words] of wrong) {
    assert.throws(() => client.subscribe("room:1", options), { code: "invalid", message: words });
    assert.throws(() => client.personal(options), { code: "invalid", message: words });
  }
});

test("handlers that throw, at errors too, harm nobody else", async (context) => {
  const { node, client, errors } = await start();
  const warned: string[] = [];
  context.mock.method(console, "warn", (line: string) => warned.push(line));
  const room = client.subscribe("room:1", { ack: "auto" });
  const fails = (what: string) => () => {
    throw new Error(what);
  };
  room.on("subscribed", fails("subscribed"));
  room.on("position", fails("position"));
  room.on("error", fails("at an error"));
  client.on("state", fails("state"));
  const rejected = async () => Promise.reject(new Error("late"));
  room.on("message", rejected);
  room.on("message", fails("at once"));
  await settle();
  node.publish("room:1", 1);
  await settle();
  assert.equal(room.isActive, true);
  assert.ok(errors.length > 0 && errors.every(({ code, message }) => code === "handler_failed" && message.includes("at an error")), errors.join("\n"));
  client.on("error", fails("at a client's error"));
  node.publish("room:1", 2);
  await settle();
  assert.ok(warned.some((line) => line.includes("at a client's error")), warned.join("\n"));
});

test("the user's own channel is named by the server", async () => {
  const world = new World();
  const node = new Node(world);
  node.publish("user:ann", "from before");
  const { client } = watch(world, { device: false });
  const got = collect(client.personal());
  void client.connect();
  await settle();
  assert.deepEqual(got, ["from before"]);
  assert.equal(client.personal().channel, "user:ann");
  assert.equal(node.connects.length, 1);
});

test("to acknowledge in the user's own channel, it is asked for in `connect`", async () => {
  const world = new World();
  const node = new Node(world);
  node.publish("user:ann", "first");
  const { client, states } = watch(world, { device: false });
  const own = client.personal({ ack: "auto" });
  const got = collect(own);
  void client.connect();
  await settle();
  await world.clock.advance(0);
  assert.deepEqual(got, ["first"]);
  assert.deepEqual(node.connects[1]!.subs, [{ channel: "user:ann", ack: true }]);
  assert.equal(node.connects[1]!.resume, undefined);
  assert.equal(world.socket.of("ack").length, 1);
  assert.deepEqual(states, ["connecting", "connected"]);
  assert.equal(world.sockets[0]!.closedWith, 1000, "the first session is over");
  // Also where the wish comes late.
  const late = await start();
  late.node.publish("user:ann", "early");
  await settle();
  const lateGot = collect(late.client.personal());
  await late.world.clock.advance(0);
  assert.deepEqual(lateGot, ["early"]);
});

test("replies come in the session's own channel, also of the next session", async () => {
  const { world, node, client } = await start();
  const replies = client.replies({ ack: "auto" });
  const got = collect(replies);
  await settle();
  assert.equal(replies.channel, "session:s1");
  node.publish("session:s1", "one");
  await settle();
  await reconnect(world);
  node.publish("session:s1", "two");
  await settle();
  node.sessions.clear();
  await reconnect(world);
  assert.equal(replies.channel, "session:s2");
  node.publish("session:s2", "three");
  await settle();
  assert.deepEqual(got, ["one", "two", "three"]);
});

test("positions outlive a refresh of the page where that is asked for", async () => {
  const world = new World();
  const node = new Node(world);
  const page = async () => {
    const { client } = await connected(world);
    const got = collect(client.subscribe("room:1", { keepPosition: true }));
    await settle();
    return { client, got };
  };
  await page();
  node.publish("room:1", "seen");
  await world.clock.advance(1_000);
  node.publish("room:1", "seen, and then the page went away");
  await settle();
  world.wakes("leaving");
  world.socket.breaks(1001);
  node.publish("room:1", "missed");
  node.sessions.clear();
  const { client, got } = await page();
  assert.deepEqual(got, ["missed"]);
  await client.close();
  assert.equal((await page()).got.length, 0);
});

test("a kept position comes before the one that is given", async () => {
  const world = new World();
  const node = new Node(world);
  node.publish("room:1", "old");
  const page = async () => {
    const { client } = await connected(world, { device: false });
    const got = collect(client.subscribe("room:1", { keepPosition: true, position: "start" }));
    await settle();
    await client.close();
    return got;
  };
  assert.deepEqual([await page(), await page()], [["old"], []]);
});

test("kept positions are bounded, and forgotten with the subscription", async () => {
  const { world, client } = await start();
  for (let n = 0; n < 128; n++) client.subscribe(`room:${n}`, { keepPosition: true });
  await settle();
  for (let n = 0; n < 128; n++) world.socket.says({ type: "position", channel: `room:${n}`, offset: "7-0", epoch: "e" });
  await world.clock.advance(1_000);
  const stored = () => Object.keys(JSON.parse(world.session!.getItem("tidegate:positions:demo")!) as object).length;
  assert.equal(stored(), 128);
  world.session!.setItem("tidegate:positions:demo", "{not json");
  await connected(world);
});

/** Random breaks, slow and failing handlers: each message is handled once and acknowledged in the end. */
test("no storm of breaks loses a message or handles one twice", async () => {
  for (let seed = 1; seed <= 25; seed++) {
    const random = seeded(seed);
    const { world, node, client } = await start();
    const [handled, counts]: [unknown[], Map<unknown, number>] = [[], new Map()];
    const options = [{ ack: "auto" }, { ack: "none" }, { ack: "none", maxBuffered: 2 }][seed % 3] as object;
    const releases: (() => void)[] = [];
    const room = client.subscribe("room:1", options);
    room.on("message", async ({ data }) => {
      if (random() < 0.5) await new Promise<void>((resolve) => releases.push(resolve));
      const fails = seed % 3 === 0 && random() < 0.2;
      if (fails) throw new Error("later");
      handled.push(data);
      counts.set(data, (counts.get(data) ?? 0) + 1);
    });
    await settle();
    for (let step = 0; step < 60; step++) {
      const what = random();
      if (what < 0.4) node.publish("room:1", step);
      else if (what < 0.7) releases.splice(0).forEach((release) => release());
      else if (what < 0.8) await reconnect(world);
      else if (what < 0.85) node.redeliver("room:1");
      else if (what < 0.9) node.sessions.clear();
      else if (what < 0.95) world.socket.says({ type: "drain", retry_after_ms: 10 });
      await world.clock.advance(20);
    }
    for (let round = 0; round < 60; round++) {
      releases.splice(0).forEach((release) => release());
      if (node.session?.socket !== world.socket) await reconnect(world);
      node.redeliver("room:1");
      await world.clock.advance(2_000);
    }
    const wanted = (node.logs.get("room:1") ?? []).map(({ data }) => data);
    assert.deepEqual(handled.toSorted((a, b) => (a as number) - (b as number)), wanted, `seed ${seed}`);
    for (const [data, count] of counts) assert.equal(count, 1, `seed ${seed}: ${String(data)}`);
    await client.close();
  }
});
