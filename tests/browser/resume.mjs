// What breaks comes back: nothing lost, nothing twice, in order.

import { Room, equal, holds, until } from "./harness.mjs";
import { Path } from "./path.mjs";

/** Publishes `count` messages one after the other and gives their offsets. */
async function publishMany(node, count, what) {
  const offsets = [];
  for (let i = 1; i <= count; i++) offsets.push(await node.publish({ name: "node", text: `${what} ${i}` }));
  return offsets;
}

/** Exactly these messages are shown, in this order, each delivered once. */
async function showsJust(room, offsets) {
  await room.shows(offsets.at(-1), '[data-acked="yes"]');
  const shown = await room.messages();
  equal("offsets shown, in order", shown.map(({ offset }) => offset).join("\n"), offsets.join("\n"));
  equal("messages delivered more than once", shown.filter(({ deliveries }) => deliveries !== 1).length, 0);
}

const isConnected = () => document.querySelector("#state").dataset.state === "connected";
const isNotConnected = () => document.querySelector("#state").dataset.state !== "connected";

function networkCheck(transport) {
  return {
    name: `the network goes and comes back: ${transport} resumes, nothing lost, nothing twice, in order`,
    async run(world) {
      const path = await Path.open();
      world.later(() => path.close());
      const node = await world.node({ flags: ["--public-url", path.base] });
      path.to(node);
      const context = await world.context();
      const room = await Room.open(context, path.base, "", transport);
      await room.connected(transport);
      const session = await room.fact("session");
      const offsets = await publishMany(node, 10, "before");
      await room.shows(offsets.at(-1));

      await context.setOffline(true);
      path.cut();
      offsets.push(...(await publishMany(node, 10, "offline")));
      // The browser believes in its network again, but nothing passes: the client has to find out by itself.
      await context.setOffline(false);
      await room.sees("the end of the connection", isNotConnected, undefined, 60_000);
      offsets.push(...(await publishMany(node, 10, "cut off")));
      equal("messages that came while nothing passed", (await room.messages()).length, 10);

      path.restore();
      await room.connected(transport);
      offsets.push(...(await publishMany(node, 10, "after")));
      await showsJust(room, offsets);
      equal("resumed", await room.fact("resumed"), "home");
      equal("the session is the same", await room.fact("session"), session);
      holds("the node says that a session came home", (await node.metric("tidegate_resumes_total", { tenant: "demo", outcome: "home" })) >= 1);
      const card = room.page.locator(".recovery").last();
      equal("the card says that nothing is missing", await card.getAttribute("data-recovered"), "true");
      equal("the card counts what came back", await card.getAttribute("data-back"), "20");
    },
  };
}

export const checks = [
  ...["webtransport", "websocket", "sse"].map(networkCheck),
  {
    name: "a short loss of all datagrams does not even end a WebTransport session",
    async run(world) {
      const path = await Path.open();
      world.later(() => path.close());
      const node = await world.node({ flags: ["--public-url", path.base] });
      path.to(node);
      const room = await Room.open(await world.context(), path.base, "", "webtransport");
      await room.connected("webtransport");
      const offsets = await publishMany(node, 5, "before");
      await room.shows(offsets.at(-1));
      path.cut();
      offsets.push(...(await publishMany(node, 20, "lost on the way")));
      path.restore();
      await showsJust(room, offsets);
      equal("reconnects", await room.fact("reconnects"), "0");
      room.isClean();
    },
  },
  {
    name: "the page cuts itself off, by its button, and catches up when it is back",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base);
      await room.connected("webtransport");
      const offsets = await publishMany(node, 3, "before");
      await room.shows(offsets.at(-1));
      await room.press("drop");
      equal("the button is pressed", await room.page.locator("#drop").getAttribute("aria-pressed"), "true");
      for (const transport of ["webtransport", "websocket", "sse"]) {
        await until(`no connection over ${transport}`, async () => (await node.connections(transport)) === 0);
      }
      await room.sees("attempts that fail", () => document.querySelector("#events").textContent.split("disconnected").length > 3);
      offsets.push(...(await publishMany(node, 5, "meanwhile")));
      await room.page.locator("#text").fill("said while cut off");
      await room.page.keyboard.press("Enter");
      equal("the state", await room.page.locator("#state").getAttribute("data-state"), "dropped");
      equal("messages that came meanwhile", (await room.messages()).length, 3);
      await room.press("drop");
      await room.connected();
      await room.sees("what was said while cut off", () => [...document.querySelectorAll(".msg.mine")].some((row) => row.textContent.includes("said while cut off")));
      const shown = await room.messages();
      equal("offsets of before and meanwhile", shown.slice(0, 8).map(({ offset }) => offset).join(), offsets.join());
      equal("messages in all", shown.length, 9);
      equal("brought back", await room.page.locator(".recovery").last().getAttribute("data-back"), "5");
      room.isClean();
    },
  },
  {
    name: "a refresh keeps the page's place, and what it had not acknowledged comes again",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base);
      await room.connected();
      const before = await publishMany(node, 5, "before");
      await room.shows(before.at(-1), '[data-acked="yes"]');
      await room.press("withhold");
      const withheld = await node.publish("held back");
      await room.shows(withheld, '[data-acked="no"]');
      await room.page.goto("about:blank");
      const missed = await publishMany(node, 4, "while away");
      await room.page.goto(`${node.base}/`);
      await room.connected();
      await showsJust(room, [withheld, ...missed]);
      await room.sees("what was handled before, as such", (count) => document.querySelectorAll(".msg.earlier").length === count, before.length);
      const earlier = await room.page.$$eval(".msg.earlier", (rows) => rows.map(({ dataset }) => dataset.offset));
      equal("the offsets of before", earlier.join(), before.join());
      equal("gaps", await room.page.locator(".gap").count(), 0);
      room.isClean();
    },
  },
  {
    name: "a button breaks the connection, and the client comes back by itself",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base);
      await room.connected();
      await room.press("reconnect");
      await room.sees("another connection", () => document.querySelector("#f-reconnects").textContent === "1");
      await room.sees("that it is in use", isConnected);
      equal("resumed", await room.fact("resumed"), "home");
      await room.say("still here");
      room.isClean();
    },
  },
];
