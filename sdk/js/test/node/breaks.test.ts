// Connections that break, nodes that restart and drain: against real nodes.

import assert from "node:assert/strict";
import { createServer, connect, type Server, type Socket } from "node:net";
import { after, test } from "node:test";
import { Tidegate, type TidegateOptions, type TransportName } from "../../src/tidegate.js";
import { clientOf, publish, startNode, tokenOf, until, type Live } from "../support/live.js";

const stops: (() => Promise<unknown>)[] = [];
after(async () => {
  for (const stop of stops.reverse()) await stop();
});

async function node(port = 0, more: string[] = []): Promise<Live> {
  const live = await startNode(port, more);
  stops.push(() => live.stop());
  return live;
}

async function client(live: Live, transport: TransportName, options: Partial<TidegateOptions> = {}): Promise<Tidegate> {
  const made = clientOf(live, transport, options);
  stops.push(() => made.close());
  await made.connect();
  return made;
}

/** A way to a node that a test cuts, or keeps everybody from. */
class Way {
  #sockets = new Set<Socket>();
  #server: Server;
  isShut = false;
  accepted = 0;

  constructor(live: Live) {
    const port = Number(new URL(live.url).port);
    this.#server = createServer((near) => {
      this.accepted++;
      if (this.isShut) return void near.destroy();
      const far = connect(port, "127.0.0.1");
      for (const [one, other] of [[near, far], [far, near]] as const) {
        this.#sockets.add(one);
        one.on("error", () => undefined).on("close", () => (other.destroy(), this.#sockets.delete(one)));
        one.pipe(other);
      }
    });
  }

  async open(): Promise<Live> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const address = this.#server.address() as { port: number };
    stops.push(async () => {
      this.cut();
      this.#server.close();
    });
    return { url: `http://127.0.0.1:${address.port}`, stop: async () => undefined };
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

for (const transport of ["websocket", "sse"] as const) {
  test(`${transport}: what was missed while the way was cut comes in order, and nothing twice`, async () => {
    const live = await node();
    const way = new Way(live);
    const through = await way.open();
    for (const ack of ["none", "auto"] as const) {
      const one = await client(through, transport);
      const got: unknown[] = [];
      const recovered: unknown[] = [];
      const room = one.subscribe(`room:${ack}`, { ack });
      room.on("message", ({ data }) => void got.push(data));
      await room.ready;
      room.on("subscribed", (told) => recovered.push(told.recovered));
      const { session } = one.connection!;
      for (let round = 0; round < 3; round++) {
        await publish(live, `room:${ack}`, `before ${round}`);
        way.cut();
        await until("the break", () => one.state !== "connected");
        await publish(live, `room:${ack}`, `missed ${round}`);
        await until("the next connection", () => one.state === "connected" && one.connection!.resumed === "home");
        await until("what was missed", () => got.length === 2 * round + 2);
      }
      assert.deepEqual(got, [0, 1, 2].flatMap((round) => [`before ${round}`, `missed ${round}`]));
      assert.deepEqual(recovered, [true, true, true]);
      assert.equal(one.connection!.session, session);
      await one.close();
    }
  });

  test(`${transport}: publications wait for a cut way, and are stored once`, async () => {
    const live = await node();
    const way = new Way(live);
    const one = await client(await way.open(), transport);
    await one.subscribe("room:1").ready;
    way.isShut = true;
    way.cut();
    await until("the break", () => one.state !== "connected");
    const all = Array.from({ length: 20 }, (_, n) => one.publish("room:1", n));
    way.isShut = false;
    const offsets = (await Promise.all(all)).map(({ offset }) => offset);
    const { entries } = await one.history("room:1", { limit: 100 });
    assert.deepEqual(entries.map(({ offset }) => offset), offsets);
    assert.deepEqual(entries.map(({ data }) => data), Array.from({ length: 20 }, (_, n) => n));
  });

  test(`${transport}: a node that drains is left without a goodbye for the next one`, async () => {
    const [first, second] = [await node(), await node()];
    const one = await client(first, transport, { url: [first.url, second.url], token: tokenOf("ann"), device: "d" });
    let drains = 0;
    one.on("drain", () => drains++);
    const room = one.subscribe("room:1", { ack: "auto" });
    const got: unknown[] = [];
    room.on("message", ({ data }) => void got.push(data));
    await room.ready;
    const stopped = first.stop();
    await until("the other node", () => one.state === "connected" && one.connection!.url.includes(new URL(second.url).host));
    await stopped;
    assert.equal(drains, 1);
    await until("the subscription there", () => room.isActive);
    await publish(second, "room:1", "on the other node");
    await until("its message", () => got.length === 1);
  });
}

test("a node that was killed and is there again is found again", async () => {
  const live = await node();
  const port = Number(new URL(live.url).port);
  const one = await client(live, "websocket");
  const room = one.subscribe("room:1");
  await room.ready;
  const told: unknown[] = [];
  room.on("gap", ({ reason }) => told.push(reason));
  room.on("message", () => undefined);
  const { offset } = await one.publish("room:1", "gone with the memory");
  await until("it was handled", () => room.position?.offset === offset);
  await live.stop("SIGKILL");
  await until("the break", () => one.state !== "connected");
  await node(port);
  await until("the next connection", () => one.state === "connected");
  await until("the gap of another life of the store", () => told.length > 0);
  assert.deepEqual(told, ["epoch"]);
});

test("where WebSockets are not let through, events are, and it is remembered", async () => {
  const live = await node();
  const one = new Tidegate({ url: live.url, tenant: "demo", transports: ["websocket", "sse"], webSocket: Refused });
  stops.push(() => one.close());
  await one.connect();
  assert.equal(one.connection?.transport, "sse");
  const room = one.subscribe("room:1");
  await room.ready;
  await one.publish("room:1", "x");
  const tried = Refused.count;
  await one.close();
  assert.equal(tried, 1);
});

/** A WebSocket behind a proxy that knows none. */
class Refused {
  static count = 0;
  binaryType = "";
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose: ((event: { code: number }) => void) | null = null;
  constructor() {
    Refused.count++;
    setTimeout(() => this.onclose?.({ code: 1006 }));
  }
  send(): void {
    throw new Error("it never opened");
  }
  close(): void {
    // It never opened.
  }
}
