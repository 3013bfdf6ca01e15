import type { Environment, WebSocketLike } from "../environment.js";
import { parseFrame, type ClientFrame } from "../frames.js";
import { LEAVING, type Endpoint, type Transport, type TransportEvents } from "./transport.js";

/** A WebSocket (RFC 6455) with the subprotocol `tidegate.v1.json`. */
export class WebSocketTransport implements Transport {
  #socket: WebSocketLike;
  #isOver = false;

  constructor(endpoint: Endpoint, env: Environment, private readonly events: TransportEvents) {
    const socket = (this.#socket = new env.WebSocket!(endpoint.url, ["tidegate.v1.json"]));
    socket.onopen = () => this.#isOver || events.opened();
    socket.onmessage = ({ data }: { data: unknown }) => this.#take(data);
    // `close` follows and says as much as a page may know.
    socket.onerror = () => undefined;
    socket.onclose = ({ code, reason }: { code?: number; reason?: string }) => this.#end(reason || "the WebSocket closed", code);
  }

  send(frame: ClientFrame): void {
    if (!this.#isOver) this.#socket.send(JSON.stringify(frame));
  }

  close(goodbye: boolean): void {
    this.#isOver = true;
    this.#socket.close(goodbye ? 1000 : LEAVING);
  }

  #take(data: unknown): void {
    if (this.#isOver) return;
    const frame = typeof data === "string" ? parseFrame(data) : undefined;
    if (frame) return this.events.frame(frame);
    this.#end("the server sent what is no frame");
    this.#socket.close(LEAVING);
  }

  #end(reason: string, code?: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.events.closed({ code, reason });
  }
}
