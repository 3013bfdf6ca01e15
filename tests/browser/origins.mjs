// A page of another site, or of another port of this host, gets nowhere, over any transport.

import { createServer } from "node:http";
import { Failed, equal, holds, until } from "./harness.mjs";

/** Each runs in a page: connects, and says what the first word was that it heard, or how it was refused. */
const TRIES = {
  websocket: ({ url }) => new Promise((resolve) => {
    const socket = new WebSocket(url, "tidegate.v1.json");
    socket.onopen = () => socket.send('{"type":"connect"}');
    socket.onmessage = ({ data }) => { resolve(data); socket.close(1000); };
    socket.onclose = ({ code }) => resolve(`refused: ${code}`);
  }),
  async webtransport({ url, hashes }) {
    const serverCertificateHashes = hashes.map(({ algorithm, value }) => ({ algorithm, value: Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) }));
    const transport = new WebTransport(url, { serverCertificateHashes });
    try {
      await transport.ready;
      const { readable, writable } = await transport.createBidirectionalStream();
      const frame = new TextEncoder().encode('{"type":"connect"}');
      writable.getWriter().write(Uint8Array.of(frame.length, ...frame)).catch(() => {});
      const { value = new Uint8Array() } = await readable.getReader().read();
      transport.close({ closeCode: 1000 });
      return new TextDecoder().decode(value);
    } catch (error) {
      return `refused: ${error.message}`;
    }
  },
  async sse({ url }) {
    try {
      // A body of this type needs no preflight, so the request itself reaches the node.
      const answer = await fetch(url, { method: "POST", headers: { "content-type": "text/plain" }, body: '{"type":"connect"}' });
      const reader = answer.body.getReader();
      const { value = new Uint8Array() } = await reader.read();
      await reader.cancel();
      return new TextDecoder().decode(value);
    } catch (error) {
      return `refused: ${error.message}`;
    }
  },
};

async function otherSite(world, host) {
  const server = createServer((_, answer) => answer.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>another site</title>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  world.later(() => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }));
  return `http://${host}:${server.address().port}/`;
}

function check(host, what) {
  return {
    name: `a page of ${what} is refused over WebSocket, WebTransport and SSE`,
    async run(world) {
      const node = await world.node();
      const page = await (await world.context()).newPage();
      const { transports } = (await node.route()).nodes[0];
      const attempt = (name) => page.evaluate(TRIES[name], { url: transports[name].url, hashes: transports[name].certificate_hashes });
      const refusals = () => node.metric("tidegate_handshakes_refused_total", { reason: "origin" });
      await page.goto(`${node.base}/`);
      for (const name of Object.keys(TRIES)) holds(`the node's own page gets in over ${name}`, (await attempt(name)).includes('"connected"'));
      await page.goto(await otherSite(world, host));
      await until("its connections gone", async () => (await Promise.all(Object.keys(TRIES).map((name) => node.connections(name)))).join() === "0,0,0");
      const sessions = await node.metric("tidegate_sessions", { tenant: "demo" });
      for (const name of Object.keys(TRIES)) {
        const before = await refusals();
        const heard = await attempt(name);
        if (heard.includes('"connected"')) throw new Failed(`over ${name} a page of ${what} was let in: ${heard}`);
        equal(`refusals that the node counts for ${name}`, (await refusals()) - before, 1);
        equal(`connections over ${name}`, await node.connections(name), 0);
      }
      holds("no session came of it", (await node.metric("tidegate_sessions", { tenant: "demo" })) <= sessions);
      const answer = await fetch(transports.sse.url, { method: "POST", body: '{"type":"connect"}', headers: { origin: page.url().slice(0, -1) } });
      equal("the status that a refused event stream has", answer.status, 403);
      holds("it says why", (await answer.json()).error.length > 10);
    },
  };
}

export const checks = [check("localhost", "another site"), check("127.0.0.1", "another port of this host")];
