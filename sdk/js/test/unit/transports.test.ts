import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { collect, watch, type Watched } from "../support/client.js";
import { Node } from "../support/node.js";
import { connectedFrame, EventStream, Server, Session } from "../support/streams.js";
import { settle, World } from "../support/world.js";

const hash = { algorithm: "sha-256", value: "AAEC" };
const routeOf = (transports: object) => Response.json({ nodes: [{ node: "n1", url: "http://a.test", transports }] });
const usual = { websocket: { url: "ws://a.test/v1/demo/ws" }, sse: { url: "http://a.test/v1/demo/sse" } };
const webtransport = { url: "https://a.test:4433/v1/demo/wt", certificate_hashes: [hash] };

beforeEach(() => {
  Session.all = [];
  Session.onSession = () => undefined;
});

/** A world with everything, whose `/route` tells of WebTransport. */
function everything(options: object = {}): { world: World; server: Server } & Watched {
  const world = new World();
  const server = new Server();
  server.onAsked = (asked) => (asked.url.endsWith("/route") ? routeOf({ webtransport, ...usual }) : new Response("", { status: 404 }));
  world.fetch = server.fetch;
  world.WebTransport = Session;
  new Node(world);
  return { world, server, ...watch(world, { transports: ["webtransport", "websocket", "sse"], ...options }) };
}

function answers(session: Session): void {
  session.onFrame = (frame) => {
    if (frame.type === "connect") session.says(connectedFrame);
    if (frame.type === "subscribe") session.says({ type: "subscribed", id: frame.id, channel: frame.channel, offset: "0-0", epoch: "e" });
    if (frame.type === "publish") session.says({ type: "ok", id: frame.id, offset: "1-0" });
  };
  session.opens();
}

test("WebTransport is first, at the place and with the certificate that /route tells", async () => {
  const { client, world, server } = everything();
  Session.onSession = answers;
  await client.connect();
  assert.equal(client.connection?.transport, "webtransport");
  const [session] = Session.all;
  assert.equal(session!.url, webtransport.url);
  assert.deepEqual(session!.options, { serverCertificateHashes: [{ algorithm: "sha-256", value: new Uint8Array([0, 1, 2]) }] });
  assert.equal(world.sockets.length, 0);
  assert.deepEqual(server.asked.map(({ url }) => url), ["http://a.test/v1/demo/route"]);
  assert.deepEqual(await client.publish("room:1", "x"), { offset: "1-0" });
});

test("frames come on the stream and as datagrams; an empty datagram is a heartbeat", async () => {
  const { client, world } = everything();
  Session.onSession = answers;
  await client.connect();
  const [session] = Session.all;
  const got = collect(client.subscribe("live:1"));
  await settle();
  const message = { type: "message", channel: "live:1", attempt: 1 } as const;
  session!.datagram({ ...message, offset: "1-0", data: { n: 1 } });
  session!.says({ ...message, offset: "2-0", data: { n: 2 } }, { ...message, offset: "3-0", data: { n: 3 } });
  await settle();
  assert.deepEqual(got, [{ n: 1 }, { n: 2 }, { n: 3 }]);
  for (let beat = 0; beat < 5; beat++) {
    await world.clock.advance(20_000);
    session!.datagram(undefined);
    await settle();
  }
  assert.equal(session!.sent.filter(({ type }) => type === "ping").length, 0, "they were heard");
  await world.clock.advance(24_000);
  assert.equal(session!.sent.filter(({ type }) => type === "ping").length, 1, "and their absence is looked into");
});

test("frames that come in one piece with `connected` are not lost", async () => {
  const { client } = everything();
  const got = collect(client.personal());
  Session.onSession = (session) => {
    session.onFrame = () =>
      session.says(
        connectedFrame,
        { type: "subscribed", channel: "user:ann", offset: "0-0", epoch: "e" },
        { type: "message", channel: "user:ann", offset: "1-0", data: "early", enc: "text", attempt: 1 },
      );
    session.opens();
  };
  await client.connect();
  await settle();
  assert.deepEqual(got, ["early"]);
});

test("a WebTransport session's close code says what to do", async () => {
  const { client, world, pauses } = everything();
  Session.onSession = answers;
  await client.connect();
  Session.all[0]!.ends(4201, "moved");
  await world.clock.advance(0);
  assert.deepEqual(pauses, [0]);
  assert.equal(Session.all.length, 2);
  Session.all[1]!.ends(4006, "kicked");
  await settle();
  assert.equal(client.state, "closed");
});

test("a goodbye over WebTransport is code 1000, after what was written", async () => {
  const { client, world } = everything();
  Session.onSession = answers;
  await client.connect();
  await client.close();
  await world.clock.advance(100);
  assert.equal(Session.all[0]!.closedWith, 1000);
});

test("where UDP is blocked a WebSocket is opened beside after the head start, and wins", async () => {
  const { client, world } = everything();
  const opened = client.connect();
  await world.clock.advance(499);
  assert.equal(world.sockets.length, 0);
  await world.clock.advance(1);
  await opened;
  assert.equal(client.connection?.transport, "websocket");
  await world.clock.advance(100);
  assert.notEqual(Session.all[0]!.closedWith, 1000, "a session was never there");
  assert.equal(Session.all[0]!.sent.length, 0);
  // It is remembered: the next connection does not wait for it.
  world.socket.breaks();
  await world.clock.advance(500);
  assert.equal(client.state, "connected");
  assert.equal(Session.all.length, 1);
  // And tried again later.
  await world.clock.advance(600_000);
  Session.onSession = answers;
  world.socket.breaks();
  await world.clock.advance(1_000);
  assert.equal(client.connection?.transport, "webtransport");
});

test("a WebTransport that fails makes way at once, and rests longer each time", async () => {
  const { client, world } = everything();
  Session.onSession = (session) => session.refuses();
  void client.connect();
  await settle();
  assert.equal(client.connection?.transport, "websocket");
  for (const minutes of [10, 20, 40]) {
    const tried = Session.all.length;
    await world.clock.advance((minutes - 1) * 60_000);
    world.socket.breaks();
    await world.clock.advance(1_000);
    assert.equal(Session.all.length, tried, `rests after ${minutes - 1} minutes`);
    await world.clock.advance(60_000);
    world.socket.breaks();
    await world.clock.advance(1_000);
    assert.equal(Session.all.length, tried + 1, `is tried after ${minutes} minutes`);
    assert.equal(client.connection?.transport, "websocket");
  }
});

test("in another network WebTransport is tried at once", async () => {
  const { client, world } = everything();
  Session.onSession = (session) => session.refuses();
  void client.connect();
  await settle();
  world.network = "cellular";
  Session.onSession = answers;
  world.socket.breaks();
  await world.clock.advance(1_000);
  assert.equal(client.connection?.transport, "webtransport");
});

test("where WebTransport worked before, it has all its time", async () => {
  const { client, world } = everything();
  Session.onSession = answers;
  await client.connect();
  Session.onSession = () => undefined;
  Session.all[0]!.ends(4200);
  await world.clock.advance(1_999);
  assert.equal(world.sockets.length, 0);
  await world.clock.advance(1);
  assert.equal(client.connection?.transport, "websocket");
});

test("a WebTransport that opens and then says nothing makes way, too", async () => {
  const { client, world } = everything();
  Session.onSession = (session) => session.opens();
  void client.connect();
  await world.clock.advance(10_000);
  assert.equal(client.connection?.transport, "websocket");
});

test("without WebTransport at the node, or in this browser, it is not tried", async () => {
  const { client, server } = everything();
  server.onAsked = () => routeOf(usual);
  await client.connect();
  assert.equal(client.connection?.transport, "websocket");
  assert.equal(Session.all.length, 0);
  const world = new World();
  new Node(world);
  const other = new Server();
  world.fetch = other.fetch;
  const plain = watch(world, { transports: ["webtransport", "websocket", "sse"] });
  await plain.client.connect();
  assert.equal(other.asked.length, 0, "/route has nothing to tell then");
});

test("a /route that fails, hangs or talks nonsense harms nothing", async () => {
  const nonsense = [{}, { nodes: 5 }, { nodes: [null, {}, { transports: { websocket: { url: "javascript:1" }, webtransport: { url: 7 } } }] }];
  for (const body of nonsense) {
    const { client, server } = everything();
    server.onAsked = () => Response.json(body);
    await client.connect();
    assert.equal(client.connection?.url, "ws://a.test/v1/demo/ws", JSON.stringify(body));
  }
  const broken = everything();
  broken.server.onAsked = () => new Response("<html>", { status: 200 });
  await broken.client.connect();
  const hanging = everything();
  hanging.server.onAsked = () => new Promise(() => undefined);
  void hanging.client.connect();
  await hanging.world.clock.advance(2_000);
  assert.equal(hanging.client.state, "connected");
});

test("/route is asked again when its answer is old, did not help, or held hashes of certificates", async () => {
  const asksOf = (server: Server) => server.of("/route").length;
  const production = everything();
  production.server.onAsked = () => routeOf({ webtransport: { url: webtransport.url }, ...usual });
  Session.onSession = answers;
  await production.client.connect();
  Session.all.at(-1)!.ends(4200);
  await production.world.clock.advance(0);
  assert.equal(asksOf(production.server), 1);
  await production.world.clock.advance(300_000);
  production.world.wakes("visible");
  Session.all.at(-1)!.ends(4200);
  await production.world.clock.advance(1_000);
  assert.equal(asksOf(production.server), 2);
  const development = everything();
  await development.client.connect();
  Session.all.at(-1)!.ends(4200);
  await development.world.clock.advance(0);
  assert.equal(asksOf(development.server), 2);
});

test("nodes are tried in the order of /route, and the address itself last", async () => {
  const { client, server, world } = everything({ transports: ["websocket"], route: true });
  server.onAsked = () => Response.json({ nodes: ["x", "y"].map((node) => ({ node, transports: { websocket: { url: `wss://${node}.test/v1/demo/ws` } } })) });
  world.onSocket = (socket) => socket.breaks();
  void client.connect();
  await settle();
  assert.deepEqual(world.sockets.map(({ url }) => url), ["wss://x.test/v1/demo/ws", "wss://y.test/v1/demo/ws", "ws://a.test/v1/demo/ws"]);
});

test("from WebSocket to SSE: where WebSockets are broken by a proxy the events come all the same", async () => {
  const { client, server, world } = everything({ transports: ["websocket", "sse"] });
  const stream = new EventStream();
  world.onSocket = (socket) => {
    socket.open();
    socket.breaks(1006);
  };
  server.onAsked = ({ url }) => (url.endsWith("/sse") ? stream.response : new Response("{}", { status: 202 }));
  const opened = client.connect();
  await settle();
  stream.says(connectedFrame);
  await opened;
  assert.equal(client.connection?.transport, "sse");
});

test("what the server says about the node is not taken for a broken transport", async () => {
  const { client, world, server, pauses } = everything({ transports: ["websocket", "sse"] });
  world.onSocket = (socket) => {
    socket.onFrame = () => socket.says({ type: "disconnect", code: 4102, reason: "overloaded", retry_after_ms: 9_000 });
    socket.open();
  };
  void client.connect();
  await settle();
  assert.deepEqual(pauses, [9_000]);
  assert.equal(server.of("/sse").length, 0);
});
