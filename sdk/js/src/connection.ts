import type { End } from "./backoff.js";
import type { Environment } from "./environment.js";
import type { ClientFrame, ConnectFrame, ConnectedFrame, ServerFrame } from "./frames.js";
import { Heartbeat } from "./heartbeat.js";
import { SseTransport } from "./transports/sse.js";
import type { Endpoint, Transport, TransportConstructor, TransportName } from "./transports/transport.js";
import { WebSocketTransport } from "./transports/websocket.js";
import { WebTransportTransport } from "./transports/webtransport.js";

/** How long `connected` is waited for, in milliseconds: a tenant's plugin may take its time to authenticate. */
const GREETING_MS = 10_000;
/** How long an answer is waited for when the page has reason to doubt its connection, in milliseconds. */
const DOUBT_MS = 5_000;

const TRANSPORTS: Record<TransportName, TransportConstructor> = {
  webtransport: WebTransportTransport,
  websocket: WebSocketTransport,
  sse: SseTransport,
};

/** How a connection ended, and what that says about the network. */
export interface ConnectionEnd extends End {
  /** Whether it was silence that ended it: nothing came for longer than it may. */
  readonly silent?: boolean;
}

/** One connection: from opening it over `connect` and `connected` to its end, which comes exactly once. */
export class Connection {
  /** Whether it opened. Resolves with false where it ended before. */
  readonly opened: Promise<boolean>;
  /** How it ended. Never rejects. */
  readonly ended: Promise<ConnectionEnd>;
  /** Milliseconds between heartbeats, as agreed; 0 before. */
  pingMs = 0;

  #transport: Transport;
  #heartbeat: Heartbeat | undefined;
  #setOpened!: (opened: boolean) => void;
  #setEnded!: (end: ConnectionEnd) => void;
  /** Takes the frames that come after `connected`; until it is there they wait. */
  #onFrame: ((frame: ServerFrame) => void) | undefined;
  #early: ServerFrame[] = [];
  #greeted: ((frame: ConnectedFrame) => void) | undefined;
  #deadline: unknown;
  #isOver = false;

  constructor(private readonly env: Environment, readonly endpoint: Endpoint, openWithinMs: number) {
    this.opened = new Promise((resolve) => (this.#setOpened = resolve));
    this.ended = new Promise((resolve) => (this.#setEnded = resolve));
    this.#within(openWithinMs, "did not open");
    this.#transport = this.#open();
  }

  /** Sends `connect`. Resolves with `connected`, or undefined where the connection ended before. */
  greet(frame: ConnectFrame): Promise<ConnectedFrame | undefined> {
    this.#within(GREETING_MS, "did not answer `connect`");
    const greeted = new Promise<ConnectedFrame>((resolve) => (this.#greeted = resolve));
    this.#transport.send(frame);
    return Promise.race([greeted, this.ended.then(() => undefined)]);
  }

  /** Hands over every frame that came after `connected`, and those that come. */
  listen(onFrame: (frame: ServerFrame) => void): void {
    this.#onFrame = onFrame;
    this.#early.splice(0).forEach(onFrame);
  }

  send(frame: ClientFrame): void {
    if (!this.#isOver) this.#transport.send(frame);
  }

  /** Asks whether the other end is there, and ends the connection if it is not. */
  probe(): void {
    this.#heartbeat?.probe(DOUBT_MS);
  }

  /** Ends it from here. `goodbye` ends the session as well, where the transport can say so. */
  close(goodbye: boolean): void {
    this.#end({ reason: "closed here" }, goodbye);
  }

  #open(): Transport {
    const events = {
      opened: () => {
        this.env.clearTimeout(this.#deadline);
        this.#setOpened(true);
      },
      frame: (frame: ServerFrame) => this.#take(frame),
      heard: () => this.#heartbeat?.heard(),
      closed: (end: End) => this.#end(end),
    };
    try {
      return new TRANSPORTS[this.endpoint.transport](this.endpoint, this.env, events);
    } catch (thrown) {
      // A constructor refuses an address, for example ws: in a page that came by https:.
      queueMicrotask(() => this.#end({ reason: String(thrown) }));
      return { send: () => undefined, close: () => undefined };
    }
  }

  #take(frame: ServerFrame): void {
    if (this.#isOver) return;
    this.#heartbeat?.heard();
    if (frame.type === "disconnect") {
      const { code, reason, message, retry_after_ms: retryAfterMs, url } = frame;
      return this.#end({ code, reason: message ? `${reason}: ${message}` : reason, retryAfterMs, url });
    }
    if (frame.type !== "connected") return this.#onFrame ? this.#onFrame(frame) : void this.#early.push(frame);
    this.env.clearTimeout(this.#deadline);
    this.pingMs = Number(frame.ping_ms) || 25_000;
    // A page does not see WebSocket pings, so it asks before the server would be heard; elsewhere
    // heartbeats are seen, and only their absence is looked into.
    const share = this.endpoint.transport === "websocket" ? 0.8 : 1.2;
    const dead = () => this.#end({ reason: "nothing was heard any more", silent: true });
    this.#heartbeat = new Heartbeat(this.env, Math.round(this.pingMs * share), () => this.send({ type: "ping" }), dead);
    this.#greeted?.(frame);
  }

  #within(ms: number, what: string): void {
    this.env.clearTimeout(this.#deadline);
    this.#deadline = this.env.setTimeout(() => this.#end({ reason: `${this.endpoint.url} ${what} within ${ms} ms` }), ms);
  }

  #end(end: ConnectionEnd, goodbye = false): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.env.clearTimeout(this.#deadline);
    this.#heartbeat?.stop();
    this.#setOpened(false);
    this.#setEnded(end);
    this.#transport.close(goodbye);
  }
}
