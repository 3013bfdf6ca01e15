// The built client in a real Chromium, against real nodes. The pages are the node's own answers (Chromium lets only
// pages that came from the machine itself connect to it over WebTransport); the module is put in.

import assert from "node:assert/strict";
import { createSocket } from "node:dgram";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium, type BrowserContext, type Page } from "playwright-core";
import { publish, startNode, tokenOf, until, type Live } from "../support/live.js";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

let live: Live;
let context: BrowserContext;
let profile: string;

before(async () => {
  live = await startNode();
  profile = await mkdtemp(join(tmpdir(), "tidegate-sdk-"));
  const executablePath = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
  context = await chromium.launchPersistentContext(profile, { executablePath, args: FLAGS, headless: true });
  const body = await readFile("dist/tidegate.min.js", "utf8");
  await context.route("**/sdk-test.js", (route) => route.fulfill({ contentType: "text/javascript", body }));
});
after(async () => {
  await context?.close();
  await live?.stop();
  await rm(profile, { recursive: true, force: true });
});

/** What the pages keep under `window`. */
type World = Record<string, any>;

/** A page of the node's origin, with the client's module as `Tidegate`. */
async function open(node = live): Promise<Page> {
  const page = await context.newPage();
  page.on("pageerror", (error) => assert.fail(`the page threw: ${error.message}`));
  await page.goto(`${node.url}/sdk-test`);
  await load(page);
  return page;
}

async function load(page: Page): Promise<void> {
  await page.evaluate("import('/sdk-test.js').then((module) => { window.Tidegate = module.Tidegate; })");
}

/** Connects a client `t` that subscribes to `room:<name>` and collects data in `got`. */
function start(page: Page, name: string, options: object = {}, subscribe: object = {}): Promise<{ transport: string; device?: string; session: string }> {
  return page.evaluate(
    async ([channel, clientOptions, subscribeOptions]) => {
      const world = window as unknown as World;
      world["got"] = [];
      world["ends"] = [];
      const client = (world["t"] = new world["Tidegate"]({ tenant: "demo", ...clientOptions }));
      client.on("disconnected", (end: unknown) => world["ends"].push(end));
      const room = (world["room"] = client.subscribe(channel, subscribeOptions));
      room.on("message", (message: { data: unknown }) => world["got"].push(message.data));
      await client.connect();
      await room.ready;
      return client.connection;
    },
    [`room:${name}`, options, subscribe] as const,
  );
}

const got = (page: Page): Promise<unknown[]> => page.evaluate(() => (window as unknown as World)["got"]);

async function receives(page: Page, wanted: unknown[]): Promise<void> {
  await page.waitForFunction((count) => (window as unknown as World)["got"].length >= count, wanted.length, { timeout: 20_000 }).catch(() => undefined);
  assert.deepEqual(await got(page), wanted);
}

for (const transport of ["webtransport", "websocket", "sse"]) {
  test(`${transport}: subscribing, publishing, receiving in a browser`, async () => {
    const page = await open();
    const connection = await start(page, `browser-${transport}`, { transports: [transport] }, { ack: "auto" });
    assert.equal(connection.transport, transport);
    const { offset } = await page.evaluate((channel) => (window as unknown as World)["t"].publish(channel, { from: "page" }), `room:browser-${transport}`);
    assert.match(offset, /^\d+-\d+$/);
    await publish(live, `room:browser-${transport}`, "from a backend");
    await receives(page, [{ from: "page" }, "from a backend"]);
    const { entries } = await page.evaluate((channel) => (window as unknown as World)["t"].history(channel, { limit: 1 }), `room:browser-${transport}`);
    assert.equal(entries[0].data, "from a backend");
    await page.close();
  });

  test(`${transport}: a node that is killed and started again is found again`, async () => {
    const node = await startNode();
    const page = await open(node);
    await start(page, "again", { transports: [transport], pingMs: 5000 });
    const port = Number(new URL(node.url).port);
    await node.stop("SIGKILL");
    const next = await startNode(port);
    try {
      await page.waitForFunction(() => (window as unknown as World)["t"].state === "connected" && (window as unknown as World)["ends"].length > 0 && (window as unknown as World)["room"].isActive, undefined, { timeout: 60_000 });
      await publish(next, "room:again", "after");
      await receives(page, ["after"]);
    } finally {
      await page.close();
      await next.stop();
    }
  });

  test(`${transport}: the server's reason for a refusal arrives`, async () => {
    const page = await open();
    const error = await page.evaluate(async (name) => {
      const client = new (window as unknown as World)["Tidegate"]({ tenant: "demo", token: "forged", transports: [name] });
      return client.connect().then(() => "connected", ({ code, closeCode }: World) => ({ code, closeCode }));
    }, transport);
    assert.deepEqual(error, { code: "refused", closeCode: 4002 });
    await page.close();
  });
}

test("WebTransport comes first by itself, and live messages arrive", async () => {
  const page = await open();
  await page.evaluate(() => localStorage.clear());
  assert.equal((await start(page, "first")).transport, "webtransport");
  await page.evaluate(async () => {
    const world = window as unknown as World;
    world["live"] = [];
    const subscription = world["t"].subscribe("live:1");
    subscription.on("message", (message: { data: unknown }) => world["live"].push(message.data));
    await subscription.ready;
  });
  for (let n = 0; n < 5; n++) await publish(live, "live:1", n);
  await page.waitForFunction(() => (window as unknown as World)["live"].length >= 1, undefined, { timeout: 20_000 });
  await page.close();
});

test("where UDP is blocked a WebSocket is there after the head start, and the next time at once", async () => {
  const silent = createSocket("udp4");
  await new Promise<void>((resolve) => silent.bind(0, "127.0.0.1", resolve));
  let packets = 0;
  silent.on("message", () => packets++);
  const page = await open();
  await page.evaluate(() => localStorage.clear());
  await page.route("**/v1/demo/route", async (route) => {
    const answer = (await (await route.fetch()).json()) as { nodes: { transports: { webtransport: { url: string } } }[] };
    for (const { transports } of answer.nodes) transports.webtransport.url = `https://127.0.0.1:${silent.address().port}/v1/demo/wt`;
    await route.fulfill({ json: answer });
  });
  assert.equal((await start(page, "blocked")).transport, "websocket");
  assert.ok(packets > 0, "WebTransport was tried");
  await page.evaluate(() => (window as unknown as World)["t"].close());
  await new Promise((resolve) => setTimeout(resolve, 500));
  packets = 0;
  assert.equal((await start(page, "blocked")).transport, "websocket");
  assert.equal(packets, 0, "it rests");
  await page.close();
  silent.close();
});

test("a refresh keeps the device and the position; a duplicated tab has a device of its own", async () => {
  const page = await open();
  const first = await start(page, "refresh", {}, { keepPosition: true });
  await publish(live, "room:refresh", "seen");
  await receives(page, ["seen"]);
  await page.reload();
  await publish(live, "room:refresh", "missed");
  await load(page);
  const second = await start(page, "refresh", {}, { keepPosition: true });
  await receives(page, ["missed"]);
  assert.equal(second.device, first.device);
  assert.match(first.device!, /^[0-9a-f]{32}$/);

  const popup = page.waitForEvent("popup");
  await page.evaluate(() => void window.open("/sdk-test"));
  const twin = await popup;
  await twin.waitForLoadState();
  assert.ok(await twin.evaluate(() => sessionStorage.getItem("tidegate:device:demo")), "it starts with a copy");
  await load(twin);
  const third = await start(twin, "refresh");
  assert.notEqual(third.device, second.device);
  await publish(live, "room:refresh", "for both");
  await receives(page, ["missed", "for both"]);
  await receives(twin, ["for both"]);
  await twin.close();
  await page.close();
});

test("a message is acknowledged, and the device's next page does not get it again", async () => {
  const token = tokenOf("bea");
  const page = await open();
  await start(page, "acked", { token }, { ack: "auto" });
  await publish(live, "room:acked", "one");
  await receives(page, ["one"]);
  await page.evaluate(() => (window as unknown as World)["t"].close());
  await page.reload();
  await publish(live, "room:acked", "two");
  await load(page);
  await start(page, "acked", { token }, { ack: "auto" });
  await receives(page, ["two"]);
  await page.close();
});

test("coming back online is noticed at once", async () => {
  const page = await open();
  await start(page, "online", { transports: ["websocket"] });
  const frames: string[] = [];
  const session = await context.newCDPSession(page);
  await session.send("Network.enable");
  session.on("Network.webSocketFrameSent", ({ response }) => frames.push(response.payloadData));
  await page.evaluate(() => window.dispatchEvent(new Event("online")));
  await until("a ping", () => frames.includes('{"type":"ping"}'));
  await page.close();
});
