import type { Environment } from "./environment.js";
import type { TidegateError } from "./errors.js";
import type { ClientFrame, Offset, Position } from "./frames.js";
import type { Recent } from "./inbox.js";
import type { Message } from "./message.js";
import type { PositionStore } from "./positions.js";
import type { Requests } from "./requests.js";
import type { Subscription } from "./subscription.js";

export interface SubscribeOptions {
  /**
   * Who acknowledges. `"none"`: nobody; a position alone tells where to go on. `"auto"`: a message is acknowledged
   * when its handler, or the loop's body, is through, and refused (to come again) when the handler throws.
   * `"manual"`: the application, by `message.ack()` and `message.nack()`. Default `"none"`; on a queue `"auto"`.
   */
  readonly ack?: "none" | "auto" | "manual";
  /** Whether the channel is a queue, whose messages are work that is acknowledged one by one. Default false. */
  readonly queue?: boolean;
  /** Messages in flight that are not acknowledged, at most. Default: the tenant's limit. */
  readonly window?: number;
  /** Where to start: after a position, or at the `"start"` of the log. Default: where the server says. */
  readonly position?: Position | "start";
  /** Whether the position outlives a refresh of the page, in sessionStorage. It comes before `position`. Default false. */
  readonly keepPosition?: boolean;
  /** Messages that may wait here for the application; over it they stay in the log and are fetched later. Default 1000. */
  readonly maxBuffered?: number;
  /** The pause after which a refused message comes again, in milliseconds; it doubles with each attempt. Default 1000. */
  readonly nackDelayMs?: number;
}

/** A subscription begins, at first or again. */
export interface Subscribed {
  readonly channel: string;
  /** Delivery starts after this position. */
  readonly position: Position;
  /** Whether everything since the last position comes; undefined where there was none. False: something may be missing. */
  readonly recovered: boolean | undefined;
}

/** Every message above `after` and at or below `until` may be missing. */
export interface Gap {
  readonly channel: string;
  readonly after: Offset;
  readonly until: Offset;
  readonly epoch: string;
  /** `trimmed`, `epoch`, `attempts` or `slow`: see docs/protocol.md, "Gaps". */
  readonly reason: string;
}

export interface SubscriptionEvents<Data> {
  /** A message. Handlers of one subscription run one message after the other: a promise is waited for. */
  message: Message<Data>;
  subscribed: Subscribed;
  gap: Gap;
  /** Everything up to here is handled. */
  position: Position;
  /** The server refused the subscription (it has ended then), or a handler threw. */
  error: TidegateError;
}

/** What a subscription needs of its client. */
export interface Host {
  readonly env: Environment;
  readonly requests: Requests;
  readonly positions: PositionStore;
  /** Idempotency keys that were handled, with their channels. */
  readonly handled: Recent;
  send(frame: ClientFrame): void;
  report(error: TidegateError): void;
  /** The server named the channel differently. */
  renamed(subscription: Subscription<any>, from: string): void;
  ended(subscription: Subscription<any>): void;
  /** Connects anew, with what `fields` say now; `afresh` as a session of its own. */
  renew(afresh: boolean): void;
}
