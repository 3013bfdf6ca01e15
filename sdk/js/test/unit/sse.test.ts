import assert from "node:assert/strict";
import { test } from "node:test";
import { watch, type Watched } from "../support/client.js";
import { connectedFrame, EventStream, Server } from "../support/streams.js";
import { settle, World } from "../support/world.js";

/** A world with fetch alone. */
function eventsOnly(): { world: World; server: Server; stream: EventStream } & Watched {
  const world = new World();
  const server = new Server();
  const stream = new EventStream();
  world.fetch = server.fetch;
  server.onAsked = ({ url }) => (url.endsWith("/sse") ? stream.response : new Response("{}", { status: 202 }));
  return { world, server, stream, ...watch(world, { transports: ["sse"], token: "t" }) };
}

test("over SSE `connect` is the body, and frames go by POST with the resume token, in order and together", async () => {
  const { client, server, stream } = eventsOnly();
  const opened = client.connect();
  await settle();
  const [open] = server.asked;
  assert.deepEqual([open!.url, open!.method, open!.headers["accept"]], ["http://a.test/v1/demo/sse", "POST", "text/event-stream"]);
  assert.deepEqual(JSON.parse(open!.body!), { type: "connect", token: "t" , device: JSON.parse(open!.body!).device });
  stream.says(connectedFrame);
  await opened;
  let release: (response: Response) => void = () => undefined;
  server.onAsked = () => new Promise((resolve) => (release = resolve));
  const first = client.subscribe("room:1");
  for (let n = 2; n <= 30; n++) client.subscribe(`room:${n}`);
  await settle();
  assert.equal(server.of("/frames").length, 1, "one request at a time");
  release(new Response("{}", { status: 202 }));
  await settle();
  const posts = server.of("/frames");
  assert.equal(posts.length, 2);
  assert.equal(posts[0]!.headers["authorization"], "Bearer r1");
  assert.deepEqual(posts.flatMap(({ body }) => JSON.parse(body!).map((frame: { channel: string }) => frame.channel)), Array.from({ length: 30 }, (_, n) => `room:${n + 1}`));
  stream.says({ type: "subscribed", id: 1, channel: "room:1", offset: "0-0", epoch: "e" });
  await first.ready;
});

test("one POST carries 64 frames and about 64 KiB at most", async () => {
  const { client, server, stream } = eventsOnly();
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame);
  await opened;
  for (let n = 0; n < 6; n++) void client.publish("room:2", "x".repeat(30_000)).catch(() => undefined);
  for (let n = 0; n < 100; n++) client.subscribe(`room:${n}`);
  await settle();
  const posts = server.of("/frames").map(({ body }) => ({ bytes: body!.length, frames: (JSON.parse(body!) as unknown[]).length }));
  assert.ok(posts.every(({ bytes, frames }) => bytes < 70_000 && frames <= 64), JSON.stringify(posts));
  assert.ok(posts.length >= 4 && posts.length <= 6, JSON.stringify(posts));
  assert.equal(posts.reduce((sum, { frames }) => sum + frames, 0), 32, "as many as may wait for replies");
});

test("SSE: comments are heartbeats, and their absence is looked into", async () => {
  const { client, server, stream, world } = eventsOnly();
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame);
  await opened;
  for (let beat = 0; beat < 4; beat++) {
    await world.clock.advance(20_000);
    stream.raw(":\n\n");
    await settle();
  }
  assert.equal(server.of("/frames").length, 0);
  await world.clock.advance(24_000);
  assert.deepEqual(server.of("/frames").map(({ body }) => body), ['[{"type":"ping"}]']);
  await world.clock.advance(10_000);
  assert.equal(server.asked[0]!.signal!.aborted, true, "it is taken for dead");
});

test("SSE: the end of the body is a break, and `disconnect` says what to do", async () => {
  const ended = eventsOnly();
  const opened = ended.client.connect();
  await settle();
  ended.stream.says(connectedFrame);
  await opened;
  ended.stream.ends();
  await settle();
  assert.deepEqual(ended.pauses, [500]);
  const told = eventsOnly();
  void told.client.connect().catch(() => undefined);
  await settle();
  told.stream.says({ type: "disconnect", code: 4003, reason: "unknown_tenant" });
  await settle();
  assert.equal(told.client.state, "closed");
});

test("SSE: refusals with Retry-After are heeded", async () => {
  const { client, server, pauses, world } = eventsOnly();
  server.onAsked = () => Response.json({ error: "this node is full" }, { status: 503, headers: { "retry-after": "7" } });
  let reason = "";
  client.on("disconnected", (told) => (reason = told.reason));
  void client.connect();
  await settle();
  assert.deepEqual(pauses, [7000]);
  assert.equal(reason, "HTTP 503: this node is full");
  await world.clock.advance(6_999);
  assert.equal(server.asked.length, 1);
});

test("SSE: frames that are refused end the connection, so that nothing waits for ever", async () => {
  const { client, server, stream, pauses } = eventsOnly();
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame);
  await opened;
  server.onAsked = () => Response.json({ error: "the session is not here" }, { status: 404 });
  const waiting = client.publish("room:1", "x");
  await settle();
  assert.equal(pauses.length, 1);
  const next = new EventStream();
  server.onAsked = ({ url }) => (url.endsWith("/sse") ? next.response : new Response("{}", { status: 202 }));
  void waiting.catch(() => undefined);
});

test("SSE: a frame that is wrong costs only itself", async () => {
  const { client, server, stream, pauses } = eventsOnly();
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame);
  await opened;
  server.onAsked = ({ body }) => {
    const frames = JSON.parse(body!) as { id: number; channel: string; type: string }[];
    if (frames.some(({ type }) => type === "history")) return Response.json({ error: "`history` is wrong" }, { status: 400 });
    for (const { id } of frames) stream.says({ type: "ok", id, offset: `${id}-0` });
    return new Response("{}", { status: 202 });
  };
  const good = [client.publish("room:1", 1), client.publish("room:1", 2)];
  const bad = client.history("room:1", { limit: -1 });
  good.push(client.publish("room:1", 3));
  await assert.rejects(bad, { code: "bad_request", message: /`history` is wrong/ });
  assert.deepEqual((await Promise.all(good)).map(({ offset }) => offset), ["1-0", "2-0", "4-0"]);
  await assert.rejects(client.history("room:1", { limit: -1 }), { code: "bad_request" }, "also alone");
  assert.deepEqual(pauses, []);
});

test("SSE: what was said last is said before the end", async () => {
  const { client, server, stream, world } = eventsOnly();
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame, { type: "subscribed", channel: "user:ann", offset: "0-0", epoch: "e" });
  await opened;
  server.onAsked = () => new Promise(() => undefined);
  client.subscribe("room:1");
  client.subscribe("room:2");
  await client.close();
  await settle();
  const last = server.asked.at(-1)!;
  assert.equal(last.isKept, true);
  assert.match(last.body!, /room:2/);
  assert.equal(server.asked[0]!.signal!.aborted, false, "without the stream the session takes nothing");
  await world.clock.advance(1_000);
  assert.equal(server.asked[0]!.signal!.aborted, true);
});

