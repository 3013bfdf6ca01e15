import assert from "node:assert/strict";
import { test } from "node:test";
import { tabDevice } from "../../src/device.js";
import { NetworkMemory } from "../../src/memory.js";
import { connected } from "../support/client.js";
import { Node } from "../support/node.js";
import { settle, Storage, World } from "../support/world.js";

/** Web Locks of one origin: a name has one holder, and others wait. */
class Locks {
  #held = new Map<string, Promise<unknown>>();

  get manager(): LockManager {
    return { request: (name: string, options: { signal: AbortSignal }, use: () => Promise<unknown>) => this.#request(name, options.signal, use) } as unknown as LockManager;
  }

  async #request(name: string, signal: AbortSignal, use: () => Promise<unknown>): Promise<unknown> {
    const aborted = new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(new Error("AbortError"))));
    while (this.#held.has(name)) await Promise.race([this.#held.get(name), aborted]);
    const held = use().finally(() => this.#held.delete(name));
    this.#held.set(name, held);
    return held;
  }
}

/** A tab with this sessionStorage, in a browser with these locks. */
function tab(session: Storage | undefined, locks: Locks | undefined): World {
  const world = new World();
  world.session = session;
  world.locks = locks?.manager;
  return world;
}

test("a refresh keeps the device, a duplicated tab gets another", async () => {
  const locks = new Locks();
  const session = new Storage();
  const first = await tabDevice(tab(session, locks).environment(), "demo");
  assert.match(first.name!, /^[0-9a-f]{32}$/);
  const copy = session.copy();
  // All tabs of this test are one page's clients, which have a place each.
  copy.setItem("tidegate:device:demo:1", first.name!);
  const duplicated = tab(copy, locks);
  const asking = tabDevice(duplicated.environment(), "demo");
  await duplicated.clock.advance(300);
  const second = await asking;
  assert.notEqual(second.name, first.name);
  assert.equal(copy.getItem("tidegate:device:demo:1"), second.name);
  first.release();
  second.release();
  const refreshed = await tabDevice(tab(session, locks).environment(), "demo");
  assert.equal(refreshed.name, first.name);
  refreshed.release();
});

test("a page that is still being left does not cost the refreshed one its device", async () => {
  const locks = new Locks();
  const session = new Storage();
  const old = await tabDevice(tab(session, locks).environment(), "slow");
  // The old page's own record does not count: another document asks.
  const page = tab(session, locks);
  const slot = session.getItem("tidegate:device:slow")!;
  session.setItem("tidegate:device:slow:1", slot);
  const asking = tabDevice(page.environment(), "slow");
  await page.clock.advance(200);
  old.release();
  await settle();
  const next = await asking;
  assert.equal(next.name, slot);
  next.release();
});

test("without Web Locks the tabs ask each other", async () => {
  const session = new Storage();
  const one = tab(session, undefined);
  const channels = new Set<Asker>();
  class Asker {
    onmessage: ((event: { data: unknown }) => void) | null = null;
    constructor(readonly name: string) {
      channels.add(this);
    }
    postMessage(data: unknown): void {
      for (const other of channels) if (other !== this && other.name === this.name) queueMicrotask(() => other.onmessage?.({ data }));
    }
    close(): void {
      channels.delete(this);
    }
  }
  one.BroadcastChannel = Asker as unknown as typeof BroadcastChannel;
  const first = tabDevice(one.environment(), "ask");
  await one.clock.advance(300);
  const { name, release } = await first;
  const copy = session.copy();
  copy.setItem("tidegate:device:ask:1", name!);
  const two = tab(copy, undefined);
  two.BroadcastChannel = one.BroadcastChannel;
  const second = tabDevice(two.environment(), "ask");
  await two.clock.advance(600);
  const other = await second;
  assert.notEqual(other.name, name);
  assert.equal(channels.size, 2);
  release();
  other.release();
  assert.equal(channels.size, 0);
});

test("two clients in one page have two devices, and the page's refresh keeps both", async () => {
  const session = new Storage();
  const world = tab(session, new Locks());
  const node = new Node(world);
  const [one, two] = [await connected(world), await connected(world)];
  const names = node.connects.map(({ device }) => device);
  assert.notEqual(names[0], names[1]);
  await one.client.close();
  await two.client.close();
  const again = tab(session, new Locks());
  const nextNode = new Node(again);
  for (const client of [await connected(again), await connected(again)]) void client;
  assert.deepEqual(nextNode.connects.map(({ device }) => device), names);
});

test("where there is no sessionStorage, or none is wanted, there is no device", async () => {
  const world = tab(undefined, undefined);
  const node = new Node(world);
  await connected(world);
  const other = new World();
  const otherNode = new Node(other);
  await connected(other, { device: false });
  assert.deepEqual([node.connects[0]!.device, otherNode.connects[0]!.device], [undefined, undefined]);
});

test("storage that throws or is full costs only the memory", async () => {
  const world = new World();
  new Node(world);
  const broken = {
    getItem: () => { throw new Error("forbidden"); },
    setItem: () => { throw new Error("full"); },
  };
  world.session = broken as unknown as Storage;
  world.local = broken as unknown as Storage;
  const { client } = await connected(world);
  client.subscribe("room:1", { keepPosition: true });
  await world.clock.advance(5_000);
  assert.equal(client.state, "connected");
});

test("what worked is remembered for a week, for 32 addresses and networks", () => {
  const world = new World();
  const memory = new NetworkMemory(world.environment(), "demo");
  memory.succeeded("http://a", "sse", ["webtransport", "websocket"]);
  const again = () => new NetworkMemory(world.environment(), "demo");
  assert.equal(again().address, "http://a");
  assert.equal(again().isResting("http://a", "websocket"), true);
  assert.equal(again().isResting("http://b", "websocket"), false);
  world.clock.now += 7 * 24 * 3_600_000;
  assert.equal(again().address, undefined);
  for (let n = 0; n < 100; n++) {
    world.clock.now++;
    again().succeeded(`http://${n}`, "sse", []);
  }
  const stored = JSON.parse(world.local.getItem("tidegate:networks:demo")!) as object;
  assert.equal(Object.keys(stored).length, 32);
  world.local.setItem("tidegate:networks:demo", "[1, 2");
  assert.equal(again().address, undefined);
});
