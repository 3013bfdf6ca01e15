import type { LogEntry, MessageFrame, Offset } from "./frames.js";
import { decodePayload } from "./payload.js";

/** An entry of a channel's log, as `history` gives it. */
export interface Entry<Data = unknown> {
  readonly channel: string;
  /** Its place in the channel: compare two with `compareOffsets`. */
  readonly offset: Offset;
  /** The payload: a JSON value, a string where it is other text, a `Uint8Array` where it is other bytes. */
  readonly data: Data;
  /** What the publisher said about it, such as `content-type`. */
  readonly headers: Readonly<Record<string, string>>;
  /** The conflation key. */
  readonly key: string | undefined;
  /** The idempotency key that it was published with. */
  readonly msgId: string | undefined;
}

/** A message of a subscription. */
export interface Message<Data = unknown> extends Entry<Data> {
  /** 1 the first time it is sent, more when it is sent again. */
  readonly attempt: number;
  /** Says that it is handled. Without acknowledgement, and the second time, it does nothing. */
  ack(): void;
  /**
   * Says that it could not be handled: it comes again.
   *
   * @param delayMs after so many milliseconds; by default the subscription's `nackDelayMs`, doubled with each attempt
   */
  nack(delayMs?: number): void;
}

export function entryOf<Data>(channel: string, frame: LogEntry): Entry<Data> {
  const { offset, headers = {}, key, msg_id: msgId } = frame;
  return { channel, offset, data: decodePayload(frame) as Data, headers, key, msgId };
}

/** A message in the hands of the application: it is settled once. */
export class Delivery<Data> implements Message<Data> {
  readonly channel: string;
  readonly offset: Offset;
  readonly data: Data;
  readonly headers: Readonly<Record<string, string>>;
  readonly key: string | undefined;
  readonly msgId: string | undefined;
  readonly attempt: number;
  #settle: ((delivery: Delivery<Data>, nackDelayMs: number | undefined) => void) | undefined;
  #nackDelayMs: number;

  constructor(frame: MessageFrame, nackDelayMs: number, settle: (delivery: Delivery<Data>, nackDelayMs: number | undefined) => void) {
    const { channel, offset, data, headers, key, msgId } = entryOf<Data>(frame.channel, frame);
    [this.channel, this.offset, this.data, this.headers, this.key, this.msgId] = [channel, offset, data, headers, key, msgId];
    this.attempt = frame.attempt;
    this.#settle = settle;
    this.#nackDelayMs = Math.min(60_000, nackDelayMs * 2 ** Math.min(16, this.attempt - 1));
  }

  get isSettled(): boolean {
    return this.#settle === undefined;
  }

  ack(): void {
    this.#end(undefined);
  }

  nack(delayMs = this.#nackDelayMs): void {
    this.#end(Math.max(0, Math.round(delayMs)));
  }

  #end(nackDelayMs: number | undefined): void {
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.(this, nackDelayMs);
  }
}
