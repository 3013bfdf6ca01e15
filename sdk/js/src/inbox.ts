import type { MessageFrame, Offset } from "./frames.js";
import { compareOffsets } from "./offsets.js";

/**
 * What became of a message here: `waiting` for the application, `active` in its handler, `open` handled but
 * neither acknowledged nor refused (manual acknowledgement), `refused` by a nack, `done`.
 */
type State = "waiting" | "active" | "open" | "refused" | "done";

interface Entry {
  readonly offset: Offset;
  /** Whether a message has it, rather than a position between messages. */
  readonly isMessage: boolean;
  message: MessageFrame | undefined;
  state: State;
}

/** What a message that came turned out to be. `handled`: the application is through with it, so is an ack due. */
export type Received = "new" | "known" | "handled";

/** Messages of one subscription between the connection and the application. */
export interface Inbox {
  /** A message came. Only what the application handled, or is handling, is dropped. */
  receive(message: MessageFrame): Received;
  /** The next message for the application, which handles it from now on. */
  take(): MessageFrame | undefined;
  /** The handler is through with it without saying what became of it. */
  leave(offset: Offset): void;
  /** It is handled. */
  done(offset: Offset): void;
  /** It could not be handled: it comes again. */
  refuse(offset: Offset): void;
  /** Nothing up to here comes any more; `gap` also takes what was refused or left open. */
  skip(until: Offset, gap: boolean): void;
  /** The connection is gone; what it was to bring of acks may not have arrived. */
  lost(): void;
  /** The offsets to acknowledge now. Each is given once. */
  takeAcks(): Offset[];
  /** Messages that wait for the application. */
  readonly waiting: number;
}

/** Of a log: acknowledgement is cumulative, so it goes as far as everything before is handled. */
export class LogInbox implements Inbox {
  /** Everything up to here is handled, or does not come: where to go on from. */
  floor: Offset | undefined;
  waiting = 0;
  /** What is not handled, or stands above something that is not, in the order of offsets. */
  #entries: Entry[] = [];
  /** The highest message with everything before it handled. What a gap skipped may still come, so the floor does not tell. */
  #handled: Offset | undefined;
  #acked: Offset | undefined;

  receive(message: MessageFrame): Received {
    const { offset } = message;
    if (this.#handled !== undefined && compareOffsets(offset, this.#handled) <= 0) {
      // The server does not know yet: the ack was lost.
      this.#acked = undefined;
      return "handled";
    }
    const at = this.#indexOf(offset);
    const entry = this.#entries[at];
    if (entry?.offset !== offset) {
      this.#entries.splice(at, 0, { offset, isMessage: true, message, state: "waiting" });
      this.waiting++;
      return "new";
    }
    if (entry.state === "active" || entry.state === "done") return "known";
    entry.message = message;
    if (entry.state !== "waiting") this.waiting++;
    entry.state = "waiting";
    return "known";
  }

  take(): MessageFrame | undefined {
    const entry = this.waiting > 0 ? this.#entries.find(({ state }) => state === "waiting") : undefined;
    if (!entry) return undefined;
    this.#become(entry, "active");
    return entry.message;
  }

  leave(offset: Offset): void {
    const entry = this.#find(offset);
    if (entry?.state === "active") this.#become(entry, "open");
  }

  done(offset: Offset): void {
    const entry = this.#find(offset);
    if (!entry) return;
    this.#become(entry, "done");
    this.#advance();
  }

  refuse(offset: Offset): void {
    const entry = this.#find(offset);
    if (entry && entry.state !== "done") this.#become(entry, "refused");
  }

  skip(until: Offset, gap: boolean): void {
    if (this.floor !== undefined && compareOffsets(until, this.floor) <= 0) return;
    for (const entry of gap ? this.#entries : []) {
      const isGivenUp = entry.state === "refused" || entry.state === "open";
      if (isGivenUp && compareOffsets(entry.offset, until) <= 0) this.#become(entry, "done");
    }
    const at = this.#indexOf(until);
    if (this.#entries[at]?.offset !== until) {
      this.#entries.splice(at, 0, { offset: until, isMessage: false, message: undefined, state: "done" });
    }
    this.#advance();
  }

  /** Delivery starts after `offset` in another life of the store: what was known of positions is void. */
  restart(offset: Offset): void {
    this.floor = offset;
    this.#handled = this.#acked = undefined;
    this.#entries = [];
    this.waiting = 0;
  }

  lost(): void {
    this.#acked = undefined;
  }

  takeAcks(): Offset[] {
    if (this.#handled === undefined || this.#acked === this.#handled) return [];
    this.#acked = this.#handled;
    return [this.#acked];
  }

  #advance(): void {
    let count = 0;
    while (this.#entries[count]?.state === "done") count++;
    for (const { offset, isMessage } of this.#entries.splice(0, count)) {
      this.floor = later(this.floor, offset);
      // Only what was sent can be acknowledged, not the positions between.
      if (isMessage) this.#handled = later(this.#handled, offset);
    }
  }

  #become(entry: Entry, state: State): void {
    if (entry.state === "waiting") this.waiting--;
    if (state === "done") entry.message = undefined;
    entry.state = state;
  }

  #find(offset: Offset): Entry | undefined {
    const entry = this.#entries[this.#indexOf(offset)];
    return entry?.offset === offset ? entry : undefined;
  }

  /** Where the offset stands among the entries, or would. */
  #indexOf(offset: Offset): number {
    let [low, high] = [0, this.#entries.length];
    // Nearly always it is the newest.
    if (high > 0 && compareOffsets(this.#entries[high - 1]!.offset, offset) < 0) return high;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compareOffsets(this.#entries[middle]!.offset, offset) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function later(a: Offset | undefined, b: Offset): Offset {
  return a !== undefined && compareOffsets(a, b) > 0 ? a : b;
}

/** Handled tasks that a queue's inbox remembers, at most. */
const REMEMBERED = 1024;

/** Of a queue: each message is work of its own, and acknowledged alone. */
export class QueueInbox implements Inbox {
  #tasks = new Map<Offset, { message: MessageFrame; state: "waiting" | "active" | "open" }>();
  #handled = new Recent(REMEMBERED);
  #acks: Offset[] = [];

  get waiting(): number {
    let count = 0;
    for (const { state } of this.#tasks.values()) if (state === "waiting") count++;
    return count;
  }

  receive(message: MessageFrame): Received {
    if (this.#handled.has(message.offset)) {
      this.#acks.push(message.offset);
      return "handled";
    }
    const known = this.#tasks.get(message.offset);
    if (known?.state === "active") return "known";
    this.#tasks.set(message.offset, { message, state: "waiting" });
    return known ? "known" : "new";
  }

  take(): MessageFrame | undefined {
    for (const task of this.#tasks.values()) {
      if (task.state !== "waiting") continue;
      task.state = "active";
      return task.message;
    }
    return undefined;
  }

  leave(offset: Offset): void {
    const task = this.#tasks.get(offset);
    if (task?.state === "active") task.state = "open";
  }

  done(offset: Offset): void {
    if (!this.#tasks.delete(offset)) return;
    this.#handled.add(offset);
    // The oldest go first where nothing can be sent: their tasks are with somebody else by then.
    if (this.#acks.push(offset) > REMEMBERED) this.#acks.shift();
  }

  refuse(offset: Offset): void {
    this.#tasks.delete(offset);
  }

  skip(): void {
    // Queues have neither positions nor gaps.
  }

  takeAcks(): Offset[] {
    return this.#acks.splice(0);
  }

  /** The connection is gone: what nobody began goes to whoever is next, or comes again. */
  lost(): void {
    for (const [offset, { state }] of this.#tasks) if (state !== "active") this.#tasks.delete(offset);
  }

  /** The session is another one: it never had the tasks whose acks wait. */
  forget(): void {
    this.#acks = [];
  }
}

/** The most recent of many names: as a set, bounded. */
export class Recent {
  #names = new Set<string>();

  constructor(private readonly most: number) {}

  has(name: string): boolean {
    return this.#names.has(name);
  }

  add(name: string): void {
    this.#names.delete(name);
    this.#names.add(name);
    if (this.#names.size > this.most) this.#names.delete(this.#names.values().next().value!);
  }
}
