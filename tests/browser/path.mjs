// A way to a node that checks can cut or narrow: HTTP and WebSocket on a TCP port, WebTransport on a UDP port.

import { createSocket } from "node:dgram";
import { createServer, request } from "node:http";
import { connect } from "node:net";

/** Clients whose datagrams are relayed at a time. */
const MOST_CLIENTS = 64;

export class Path {
  /** Nothing passes: open connections break, datagrams vanish without a word. */
  isCut = false;
  #node;
  #sockets = new Set();
  #clients = new Map();

  /**
   * Opens the ports; `base` is what pages use. A node started with `--public-url` and that name is then given to `to`.
   *
   * @param hasUdp        false: datagrams are swallowed, as by a firewall that says nothing
   * @param hasWebSocket  false: what wants to become a WebSocket is refused, as by a proxy that does not know it
   */
  static async open({ hasUdp = true, hasWebSocket = true } = {}) {
    const path = new Path();
    Object.assign(path, { hasUdp, hasWebSocket });
    path.server = createServer((incoming, outgoing) => path.#forward(incoming, outgoing));
    path.server.on("connection", (socket) => path.#keep(socket));
    path.server.on("upgrade", (incoming, socket, head) => path.#upgrade(incoming, socket, head));
    await new Promise((resolve) => path.server.listen(0, "127.0.0.1", resolve));
    path.base = `http://127.0.0.1:${path.server.address().port}`;
    path.udp = createSocket("udp4");
    path.udp.on("message", (datagram, from) => path.#relay(datagram, from));
    await new Promise((resolve) => path.udp.bind(0, "127.0.0.1", resolve));
    return path;
  }

  to(node) {
    const [host, port] = node.at.http.split(":");
    this.#node = { host, port: Number(port), quic: Number(node.at.quic.split(":")[1]) };
  }

  cut() {
    this.isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  restore() {
    this.isCut = false;
  }

  async close() {
    this.cut();
    for (const { socket } of this.#clients.values()) socket.close();
    this.udp.close();
    await new Promise((resolve) => this.server.close(resolve));
  }

  #keep(socket) {
    if (this.isCut) return socket.destroy();
    this.#sockets.add(socket);
    socket.on("error", () => {}).on("close", () => this.#sockets.delete(socket));
  }

  #forward(incoming, outgoing) {
    const { host, port } = this.#node;
    const upstream = request({ host, port, method: incoming.method, path: incoming.url, headers: incoming.headers, agent: false }, (answer) => {
      if (incoming.url.endsWith("/route")) return this.#tellRoute(answer, outgoing);
      outgoing.writeHead(answer.statusCode, answer.headers).flushHeaders();
      answer.pipe(outgoing);
    });
    upstream.on("socket", (socket) => this.#keep(socket)).on("error", () => outgoing.destroy());
    outgoing.on("close", () => upstream.destroy());
    incoming.pipe(upstream);
  }

  /** The node names its own UDP port; pages are to use this one. */
  #tellRoute(answer, outgoing) {
    let text = "";
    answer.setEncoding("utf8").on("data", (more) => (text += more)).on("end", () => {
      const told = text.replace(`:${this.#node.quic}/v1/demo/wt`, `:${this.udp.address().port}/v1/demo/wt`);
      outgoing.writeHead(answer.statusCode, { "content-type": "application/json" }).end(told);
    });
  }

  #upgrade(incoming, socket, head) {
    if (!this.hasWebSocket) return socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    const { host, port } = this.#node;
    const upstream = connect(port, host, () => {
      const headers = incoming.rawHeaders.flatMap((text, i, all) => (i % 2 ? [] : [`${text}: ${all[i + 1]}`]));
      upstream.write([`${incoming.method} ${incoming.url} HTTP/1.1`, ...headers, "", ""].join("\r\n"));
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    this.#keep(upstream);
    socket.on("close", () => upstream.destroy());
    upstream.on("close", () => socket.destroy());
  }

  #relay(datagram, { address, port }) {
    if (this.isCut || !this.hasUdp) return;
    let client = this.#clients.get(port);
    if (!client) {
      if (this.#clients.size >= MOST_CLIENTS) return;
      const socket = createSocket("udp4");
      socket.on("message", (back) => this.isCut || this.udp.send(back, port, address)).on("error", () => {});
      this.#clients.set(port, (client = { socket }));
    }
    client.socket.send(datagram, this.#node.quic, this.#node.host);
  }
}
