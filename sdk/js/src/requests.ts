import { TidegateError } from "./errors.js";
import type { Environment } from "./environment.js";
import type { ErrorFrame, OkFrame, RequestFrame, SubscribedFrame } from "./frames.js";

/** Requests that wait for their replies at one time. The server takes 64; acks and pings have no reply. */
const IN_FLIGHT = 32;

/** Any request without its `id`. */
export type Wish = RequestFrame extends infer Frame ? (Frame extends RequestFrame ? Omit<Frame, "id"> : never) : never;

export type Reply = OkFrame | SubscribedFrame;

export interface RequestOptions {
  /** Whether it may be sent again when the connection breaks before the reply. */
  readonly resend: boolean;
  /** How long the reply is waited for, from now on, in milliseconds; 0 for as long as it takes. */
  readonly timeoutMs: number;
  /** Whether it may be sent yet. */
  readonly isReady?: () => boolean;
  /** Called with the reply before any later frame is looked at, which a promise cannot promise. */
  readonly onReply?: (reply: Reply) => void;
  /** The client's own requests, which are few and bounded elsewhere. */
  readonly isOwn?: boolean;
}

interface Open {
  readonly id: number;
  readonly text: RequestFrame;
  readonly bytes: number;
  readonly options: RequestOptions;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: TidegateError) => void;
  isSent: boolean;
  timer: unknown;
}

export interface RequestLimits {
  readonly maxQueued: number;
  readonly maxQueuedBytes: number;
}

/** Requests that wait for a connection or for their replies, in order and bounded. */
export class Requests {
  #open = new Map<number, Open>();
  #lastId = 0;
  #count = 0;
  #bytes = 0;
  #inFlight = 0;
  #closed: TidegateError | undefined;
  #send: ((frame: RequestFrame) => void) | undefined;

  constructor(private readonly env: Environment, private readonly limits: RequestLimits) {}

  /**
   * Sends a request as soon as it can be sent.
   *
   * Rejects with a `TidegateError`: the server's code, `queue_full`, `timeout`, `connection_lost` or `closed`.
   */
  submit(wish: Wish, options: RequestOptions): Promise<Reply> {
    if (this.#closed) return Promise.reject(this.#closed);
    const bytes = options.isOwn ? 0 : JSON.stringify(wish).length;
    const { maxQueued, maxQueuedBytes } = this.limits;
    if (!options.isOwn && (this.#count >= maxQueued || this.#bytes + bytes > maxQueuedBytes)) {
      const most = `the most is maxQueued (${maxQueued}) and maxQueuedBytes (${maxQueuedBytes})`;
      return Promise.reject(new TidegateError("queue_full", `${this.#count} requests of ${this.#bytes} bytes wait already; ${most}`));
    }
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const text = { ...wish, id } as RequestFrame;
      const open: Open = { id, text, bytes, options, resolve, reject, isSent: false, timer: undefined };
      if (options.timeoutMs > 0) open.timer = this.env.setTimeout(() => this.#expire(open), options.timeoutMs);
      this.#open.set(id, open);
      if (!options.isOwn) this.#count++;
      this.#bytes += bytes;
      this.flush();
    });
  }

  /** There is a connection. */
  connected(send: (frame: RequestFrame) => void): void {
    this.#send = send;
    this.flush();
  }

  /** The connection is gone: what may be sent again waits for the next, the rest fails. */
  lost(): void {
    this.#send = undefined;
    for (const open of [...this.#open.values()]) {
      if (!open.isSent) continue;
      open.isSent = false;
      this.#inFlight--;
      if (open.options.resend) continue;
      this.#settle(open);
      const lost = `the connection broke before the reply to \`${open.text.type}\`: whether it was done is not known`;
      open.reject(new TidegateError("connection_lost", lost));
    }
  }

  /** Sends what can be sent. */
  flush(): void {
    for (const open of this.#open.values()) {
      if (!this.#send || this.#inFlight >= IN_FLIGHT) return;
      if (open.isSent || open.options.isReady?.() === false) continue;
      open.isSent = true;
      this.#inFlight++;
      this.#send(open.text);
    }
  }

  /** Gives a reply to whoever asked. */
  reply(frame: Reply | ErrorFrame): void {
    const open = frame.id === undefined ? undefined : this.#open.get(frame.id);
    if (!open) return;
    this.#settle(open);
    if (frame.type === "error") open.reject(new TidegateError(frame.code, frame.message));
    else {
      open.options.onReply?.(frame);
      open.resolve(frame);
    }
    this.flush();
  }

  /** Requests may come again. */
  reopen(): void {
    this.#closed = undefined;
  }

  /** Nothing is sent any more, and nothing taken until it is opened again. */
  close(error: TidegateError): void {
    this.#closed = error;
    this.#send = undefined;
    for (const open of [...this.#open.values()]) {
      this.#settle(open);
      open.reject(error);
    }
  }

  #expire(open: Open): void {
    this.#settle(open);
    const done = open.isSent ? "whether it was done is not known" : "it was not sent";
    open.reject(new TidegateError("timeout", `no reply to \`${open.text.type}\` within ${open.options.timeoutMs} ms: ${done}`));
    this.flush();
  }

  #settle(open: Open): void {
    if (!this.#open.delete(open.id)) return;
    this.env.clearTimeout(open.timer);
    if (open.isSent) this.#inFlight--;
    if (!open.options.isOwn) this.#count--;
    this.#bytes -= open.bytes;
  }
}
