import { retryAfter, type End } from "../backoff.js";
import type { Environment } from "../environment.js";
import { parseFrame, type ClientFrame } from "../frames.js";
import { EventReader } from "./eventstream.js";
import type { Endpoint, Transport, TransportEvents } from "./transport.js";

/** Frames that one `POST` of theirs carries at most. */
const MOST_FRAMES = 64;
/** Bytes of frames that one `POST` carries at most, unless a single frame is larger. */
const MOST_BYTES = 64 * 1024;
/** How long one `POST` of frames may take, in milliseconds. */
const POST_MS = 10_000;
/** How long the last frames are waited for before the stream is closed, in milliseconds. */
const LAST_MS = 1_000;
/** Statuses that are about what was sent, not about the session. */
const WRONG = [400, 413];

/** A frame to be sent; `id` where it is a request. */
interface Waiting {
  readonly text: string;
  readonly id: number | undefined;
}

/**
 * Server-sent events, read from the body of a `POST` by fetch; what the client says goes by `POST` to
 * `frames`, one request at a time, so that the order holds.
 */
export class SseTransport implements Transport {
  #abort = new AbortController();
  #waiting: Waiting[] = [];
  /** What authorises frames: the `resume` of `connected`. */
  #resume: string | undefined;
  #posting: Promise<Response> | undefined;
  #isOver = false;

  constructor(private readonly endpoint: Endpoint, private readonly env: Environment, private readonly events: TransportEvents) {
    // There is nothing to open before `connect` is known, which is the body of the first request.
    queueMicrotask(() => this.#isOver || events.opened());
  }

  send(frame: ClientFrame): void {
    if (this.#isOver) return;
    const broke = (thrown: unknown) => this.#end({ reason: `the request failed: ${String(thrown)}` });
    if (frame.type === "connect") return void this.#receive(frame).catch(broke);
    this.#waiting.push({ text: JSON.stringify(frame), id: "id" in frame ? frame.id : undefined });
    this.#flush().catch(broke);
  }

  close(): void {
    this.#isOver = true;
    // What was said last, such as an ack, is said all the same; without the stream it would be refused.
    const last = this.#resume && this.#waiting.length > 0 ? this.#say(batch(this.#waiting), true) : undefined;
    const abort = () => this.#abort.abort();
    void Promise.allSettled([this.#posting, last]).then(abort);
    if (this.#posting || last) this.env.setTimeout(abort, LAST_MS);
  }

  async #receive(connect: ClientFrame): Promise<void> {
    const response = await this.#post(this.endpoint.url, JSON.stringify(connect), { accept: "text/event-stream" }, { signal: this.#abort.signal });
    if (!response.ok || !response.body) return this.#end(await this.#refusal(response));
    const events = new EventReader();
    const text = response.body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>);
    const reader = text.getReader();
    for (let next = await reader.read(); !next.done && !this.#isOver; next = await reader.read()) {
      for (const data of events.push(next.value)) this.#take(data);
    }
    this.#end({ reason: "the event stream ended" });
  }

  #take(data: string | undefined): void {
    if (this.#isOver) return;
    if (data === undefined) return this.events.heard();
    const frame = parseFrame(data);
    if (!frame) return this.#end({ reason: "the server sent what is no frame" });
    if (frame.type === "connected") this.#resume = frame.resume;
    this.events.frame(frame);
  }

  async #flush(): Promise<void> {
    if (this.#posting || !this.#resume) return;
    while (this.#waiting.length > 0 && !this.#isOver) {
      const sent = batch(this.#waiting);
      const response = await (this.#posting = this.#say(sent));
      // One frame that is wrong has all of them refused: alone, each gets its own answer.
      if (WRONG.includes(response.status)) await this.#sayEach(sent, await this.#refusal(response));
      else if (!response.ok) return this.#end(await this.#refusal(response));
      // The body is empty; reading it frees the connection for the next request.
      else await response.text();
    }
    this.#posting = undefined;
  }

  async #sayEach(sent: Waiting[], { reason }: End): Promise<void> {
    for (const one of sent) {
      const response = sent.length > 1 ? await this.#say([one]) : undefined;
      if (this.#isOver || response?.ok) continue;
      if (response && !WRONG.includes(response.status)) return this.#end(await this.#refusal(response));
      const message = response ? (await this.#refusal(response)).reason : reason;
      this.events.frame({ type: "error", code: "bad_request", message, ...(one.id !== undefined && { id: one.id }) });
    }
  }

  async #say(frames: Waiting[], isLast = false): Promise<Response> {
    const url = this.endpoint.url.replace(/\/sse$/, "/frames");
    const body = `[${frames.map(({ text }) => text).join(",")}]`;
    const abort = new AbortController();
    const timer = this.env.setTimeout(() => abort.abort(), POST_MS);
    try {
      const how = { signal: abort.signal, keepalive: isLast };
      return await this.#post(url, body, { authorization: `Bearer ${this.#resume}` }, how);
    } finally {
      this.env.clearTimeout(timer);
    }
  }

  #post(url: string, body: string, headers: Record<string, string>, how: RequestInit): Promise<Response> {
    const all = { "content-type": "application/json", ...headers };
    return this.env.fetch!(url, { method: "POST", headers: all, body, ...how, cache: "no-store", credentials: "omit" });
  }

  async #refusal(response: Response): Promise<End> {
    const body = await response.text().catch(() => "");
    const why = /"error"\s*:\s*"([^"]*)/.exec(body)?.[1] ?? response.statusText;
    const retryAfterMs = retryAfter(response.headers.get("retry-after"), this.env.now());
    return { reason: `HTTP ${response.status}: ${why}`, retryAfterMs };
  }

  #end(end: End): void {
    if (this.#isOver) return;
    this.#isOver = true;
    // What waits is said on the next connection.
    this.#waiting = [];
    this.events.closed(end);
    this.#abort.abort();
  }
}

/** Takes as many frames as one request may carry. */
function batch(waiting: Waiting[]): Waiting[] {
  let [count, bytes] = [0, 0];
  while (count < Math.min(waiting.length, MOST_FRAMES) && (count === 0 || bytes + waiting[count]!.text.length <= MOST_BYTES)) {
    bytes += waiting[count++]!.text.length;
  }
  return waiting.splice(0, count);
}
