// Which transport carries the page, by its own word and by the node's.

import { Room, equal, holds, until } from "./harness.mjs";
import { Path } from "./path.mjs";

const NAMES = { webtransport: "WebTransport", websocket: "WebSocket", sse: "SSE" };

/** The page and the node agree: it is this transport and no other. */
async function isOver(room, node, transport) {
  await room.connected(transport);
  const text = await room.page.locator("#state-text").textContent();
  equal("the page says", text, `Connected over ${NAMES[transport]}`);
  const count = async () => Promise.all(Object.keys(NAMES).map((name) => node.connections(name)));
  const wanted = Object.keys(NAMES).map((name) => Number(name === transport)).join();
  await until(`one connection, over ${transport}, by the node's metrics`, async () => (await count()).join() === wanted);
}

/** One message may be in flight at a time: the next comes only when the node has the acknowledgement. */
const WINDOW_OF_ONE = { config: "[limits]\nwindow = 1\n" };

/** Messages of the page and of the node, and the page's acknowledgements, go over it. */
async function carries(room, node) {
  const offsets = [await room.say("from the page")];
  for (let i = 0; i < 5; i++) offsets.push(await node.publish(`from the node ${i}`));
  await room.shows(offsets.at(-1), '[data-acked="yes"]');
  equal("offsets shown, in order", (await room.messages()).map(({ offset }) => offset).join(), offsets.join());
}

/** A page behind a path that lets only some transports through. */
async function behind(world, options) {
  const path = await Path.open(options);
  world.later(() => path.close());
  const node = await world.node({ flags: ["--public-url", path.base], ...WINDOW_OF_ONE });
  path.to(node);
  const room = await Room.open(await world.context(), path.base);
  return { path, node, room };
}

export const checks = [
  {
    name: "WebTransport is what automatic means, by the certificate's hash from /route",
    async run(world) {
      const node = await world.node(WINDOW_OF_ONE);
      const { webtransport } = (await node.route()).nodes[0].transports;
      holds("/route names hashes of the development certificate", webtransport.certificate_hashes?.every(({ algorithm, value }) => algorithm === "sha-256" && value.length === 44));
      const room = await Room.open(await world.context(), node.base);
      await isOver(room, node, "webtransport");
      await carries(room, node);
      equal("heartbeats come at least every 20 s there", Number(/[\d.]+/.exec(await room.fact("heartbeat"))[0]) <= 20, true);
      room.isClean();
    },
  },
  {
    name: "the transport is switched by hand, and nothing is lost between",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base);
      await isOver(room, node, "webtransport");
      const offsets = [];
      for (const transport of ["websocket", "sse", "webtransport"]) {
        offsets.push(await node.publish(`before ${transport}`));
        await room.choose(transport);
        offsets.push(await node.publish(`while switching to ${transport}`));
        await isOver(room, node, transport);
        offsets.push(await node.publish(`over ${transport}`));
        await room.shows(offsets.at(-1), '[data-acked="yes"]');
      }
      const shown = await room.messages();
      equal("offsets shown, in order", shown.map(({ offset }) => offset).join(), offsets.join());
      equal("the choice outlives a refresh", await room.page.reload().then(() => room.page.locator("[name=transport]:checked").inputValue()), "webtransport");
      room.isClean();
    },
  },
  {
    name: "where UDP is swallowed, a WebSocket",
    async run(world) {
      const { node, room } = await behind(world, { hasUdp: false });
      await isOver(room, node, "websocket");
      await carries(room, node);
    },
  },
  {
    name: "where UDP is swallowed and WebSockets are refused, server-sent events",
    async run(world) {
      const { node, room } = await behind(world, { hasUdp: false, hasWebSocket: false });
      await isOver(room, node, "sse");
      await carries(room, node);
    },
  },
];
