// WebTransport and fetch whose other end is the test.

import type { WebTransportLike } from "../../src/environment.js";
import type { ClientFrame, ConnectedFrame, ServerFrame } from "../../src/frames.js";
import { LengthReader, withLength } from "../../src/transports/lengths.js";

/** What a server says first. */
export const connectedFrame: ConnectedFrame = {
  type: "connected", session: "s1", user: "ann", resume: "r1", resumed: "new", node: "n1", ping_ms: 20_000,
};

/** A WebTransport session that a test opens, answers and ends. */
export class Session implements WebTransportLike {
  static all: Session[] = [];
  static onSession: (session: Session) => void = () => undefined;

  readonly ready: Promise<void>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  readonly datagrams: { readable: ReadableStream<Uint8Array> };
  readonly sent: ClientFrame[] = [];
  closedWith: number | undefined;
  onFrame: (frame: ClientFrame) => void = () => undefined;
  #open!: () => void;
  #refuse!: (why: Error) => void;
  #close!: (info: { closeCode?: number; reason?: string }) => void;
  #datagrams!: ReadableStreamDefaultController<Uint8Array>;
  #stream!: ReadableStreamDefaultController<Uint8Array>;
  #lengths = new LengthReader();

  constructor(readonly url: string, readonly options: Record<string, unknown> = {}) {
    this.ready = new Promise((open, refuse) => ([this.#open, this.#refuse] = [open, refuse]));
    this.closed = new Promise((close) => (this.#close = close));
    this.datagrams = { readable: new ReadableStream({ start: (controller) => void (this.#datagrams = controller) }) };
    Session.all.push(this);
    queueMicrotask(() => Session.onSession(this));
  }

  async createBidirectionalStream() {
    const readable = new ReadableStream<Uint8Array>({ start: (controller) => void (this.#stream = controller) });
    const writable = new WritableStream<Uint8Array>({
      write: (chunk) => {
        for (const bytes of this.#lengths.push(chunk)) {
          const frame = JSON.parse(new TextDecoder().decode(bytes)) as ClientFrame;
          this.sent.push(frame);
          this.onFrame(frame);
        }
      },
    });
    return { readable, writable };
  }

  close({ closeCode }: { closeCode?: number } = {}): void {
    this.closedWith ??= closeCode ?? 0;
    this.#close({ closeCode: closeCode ?? 0 });
  }

  opens(): void {
    this.#open();
  }

  refuses(): void {
    this.#refuse(new Error("Opening handshake failed."));
  }

  /** Says frames on the stream, in one chunk. */
  says(...frames: ServerFrame[]): void {
    const bytes = frames.map((frame) => withLength(new TextEncoder().encode(JSON.stringify(frame))));
    this.#stream.enqueue(Uint8Array.from(Buffer.concat(bytes)));
  }

  datagram(frame: ServerFrame | undefined): void {
    this.#datagrams.enqueue(frame ? new TextEncoder().encode(JSON.stringify(frame)) : new Uint8Array());
  }

  ends(closeCode: number, reason = ""): void {
    this.#stream.close();
    this.#close({ closeCode, reason });
  }
}

/** A request that was made by fetch. */
export interface Asked {
  readonly url: string;
  readonly method: string;
  readonly headers: Record<string, string>;
  readonly body: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly isKept: boolean;
}

/** Answers requests; an event stream is fed piece by piece. */
export class Server {
  asked: Asked[] = [];
  /** What is answered; undefined for no answer at all. */
  onAsked: (asked: Asked) => Response | Promise<Response> = () => new Response("", { status: 404 });

  readonly fetch: typeof fetch = async (input, init = {}) => {
    const signal = init.signal ?? undefined;
    const asked: Asked = {
      url: String(input), method: init.method ?? "GET", headers: (init.headers ?? {}) as Record<string, string>,
      body: init.body as string | undefined, signal, isKept: init.keepalive === true,
    };
    this.asked.push(asked);
    const aborted = new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(new Error("aborted"))));
    return Promise.race([Promise.resolve(this.onAsked(asked)), aborted]);
  };

  of(end: string): Asked[] {
    return this.asked.filter(({ url }) => url.endsWith(end));
  }
}

/** An event stream that a test feeds. */
export class EventStream {
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  readonly response = new Response(new ReadableStream({ start: (controller) => void (this.#controller = controller) }));

  says(...frames: ServerFrame[]): void {
    this.raw(frames.map((frame) => `event: ${frame.type}\ndata: ${JSON.stringify(frame)}\n\n`).join(""));
  }

  raw(text: string): void {
    this.#controller.enqueue(new TextEncoder().encode(text));
  }

  ends(): void {
    this.#controller.close();
  }
}
