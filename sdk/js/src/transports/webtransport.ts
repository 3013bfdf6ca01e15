import type { Environment, WebTransportLike } from "../environment.js";
import { parseFrame, type ClientFrame } from "../frames.js";
import { LengthReader, withLength } from "./lengths.js";
import { LEAVING, type Endpoint, type Transport, type TransportEvents } from "./transport.js";

/** How long the session's close, which brings the code, is waited for after its stream ended, in milliseconds. */
const CLOSE_WAIT_MS = 2_000;
/** What was written last has so long to go before a close, in milliseconds. */
const FLUSH_MS = 50;

/**
 * WebTransport over HTTP/3: one bidirectional stream with a length before each frame, and whole frames or
 * heartbeats (empty) as datagrams from the server.
 */
export class WebTransportTransport implements Transport {
  #session: WebTransportLike;
  #writer: WritableStreamDefaultWriter<Uint8Array> | undefined;
  #written: Promise<unknown> | undefined;
  #isOver = false;

  constructor(endpoint: Endpoint, private readonly env: Environment, private readonly events: TransportEvents) {
    this.#session = new env.WebTransport!(endpoint.url, options(endpoint));
    this.#session.closed.then(
      ({ closeCode, reason }) => this.#end(reason || "the WebTransport session closed", closeCode),
      (thrown: unknown) => this.#end(`the WebTransport session broke: ${String(thrown)}`),
    );
    this.#start().catch((thrown: unknown) => this.#end(`WebTransport did not open: ${String(thrown)}`));
  }

  send(frame: ClientFrame): void {
    if (this.#isOver) return;
    const bytes = withLength(new TextEncoder().encode(JSON.stringify(frame)));
    // The browser keeps the order; a write that fails ends the session, which `closed` tells.
    this.#written = this.#writer?.write(bytes).catch(() => undefined);
  }

  close(goodbye: boolean): void {
    this.#isOver = true;
    const closeNow = () => this.#close(goodbye ? 1000 : LEAVING);
    // A close overtakes what was written just before, and one before `ready` is refused by some browsers.
    const moment = new Promise<void>((resolve) => this.env.setTimeout(resolve, FLUSH_MS));
    const flushed = this.#written?.then(() => moment) ?? this.#session.ready;
    Promise.race([flushed, this.#session.closed, moment]).then(closeNow, closeNow);
  }

  async #start(): Promise<void> {
    await this.#session.ready;
    if (this.#isOver) return;
    const stream = await this.#session.createBidirectionalStream();
    this.#writer = stream.writable.getWriter();
    this.#readStream(stream.readable).catch((thrown: unknown) => this.#end(`the stream broke: ${String(thrown)}`));
    // Datagrams end with the session, which `closed` tells.
    read(this.#session.datagrams.readable, (bytes) => this.#take(bytes)).catch(() => undefined);
    if (!this.#isOver) this.events.opened();
  }

  async #readStream(readable: ReadableStream<Uint8Array>): Promise<void> {
    const lengths = new LengthReader();
    await read(readable, (chunk) => lengths.push(chunk).forEach((bytes) => this.#take(bytes)));
    this.env.setTimeout(() => this.#end("the stream ended"), CLOSE_WAIT_MS);
  }

  #take(bytes: Uint8Array): void {
    if (this.#isOver) return;
    if (bytes.length === 0) return this.events.heard();
    const frame = parseFrame(new TextDecoder().decode(bytes));
    if (frame) this.events.frame(frame);
    else this.#end("the server sent what is no frame");
  }

  #end(reason: string, code?: number): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.events.closed({ code, reason });
    this.#close(LEAVING);
  }

  #close(closeCode: number): void {
    try {
      this.#session.close({ closeCode });
    } catch {
      // It is closed already.
    }
  }
}

function options({ certificateHashes }: Endpoint): Record<string, unknown> {
  if (!certificateHashes?.length) return {};
  const hashes = certificateHashes.map(({ algorithm, value }) => {
    return { algorithm, value: Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) };
  });
  return { serverCertificateHashes: hashes };
}

async function read(readable: ReadableStream<Uint8Array>, each: (chunk: Uint8Array) => void): Promise<void> {
  const reader = readable.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) each(next.value);
}
