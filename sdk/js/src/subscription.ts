import { fullJitter } from "./backoff.js";
import { asError, TidegateError } from "./errors.js";
import { Events, type Off } from "./events.js";
import type { GapFrame, MessageFrame, Position, PositionFrame, SubFields, SubscribedFrame } from "./frames.js";
import { LogInbox, QueueInbox } from "./inbox.js";
import { Delivery, type Message } from "./message.js";
import { BEGINNING, compareOffsets } from "./offsets.js";
import type { Reply } from "./requests.js";
import type { Host, Subscribed, SubscribeOptions, SubscriptionEvents } from "./subscribing.js";

/** Acks of a log wait for at most so many messages while more are waiting here, or so many milliseconds. */
const ACK_EVERY = 16;
const ACK_EVERY_MS = 1_000;

/**
 * - `off`: no connection, or not asked for on it
 * - `asked`: the server's answer is awaited
 * - `on`: messages come
 * - `paused`: too many wait for the application; what comes is left in the log
 */
type Phase = "off" | "asked" | "on" | "paused" | "ended";

/** Interest in a channel. It lasts over connections until `unsubscribe`, or until the server refuses it. */
export class Subscription<Data = unknown> implements AsyncIterable<Message<Data>> {
  /** Resolves at the first `subscribed`; rejects with the server's `TidegateError` when it is refused. */
  readonly ready: Promise<Subscribed>;

  #channel: string;
  #phase: Phase = "off";
  #epoch: string | undefined;
  #isEstablished = false;
  #isAskedInConnect = false;
  #attempt = 0;
  #inbox: LogInbox | QueueInbox;
  #events: Events<SubscriptionEvents<Data>>;
  #handlers = new Set<(message: Message<Data>) => unknown>();
  #isPumping = false;
  #pulls: (() => void)[] = [];
  #failure: TidegateError | undefined;
  #told: string | undefined;
  #sinceAck = 0;
  #ackedAt = 0;
  #ackTimer: unknown;
  #setReady!: (subscribed: Subscribed) => void;
  #setFailed!: (error: TidegateError) => void;

  /** @internal */
  constructor(private readonly host: Host, channel: string, readonly options: SubscribeOptions) {
    this.#channel = channel;
    this.#inbox = options.queue ? new QueueInbox() : new LogInbox();
    this.#events = new Events((thrown, name) => {
      const error = asError(thrown, "handler_failed", `a handler of \`${name}\` threw`);
      // What threw at an error is not told of this one.
      if (name === "error") this.host.report(error);
      else this.#report(error);
    });
    this.ready = new Promise((resolve, reject) => ([this.#setReady, this.#setFailed] = [resolve, reject]));
    this.ready.catch(() => undefined);
  }

  /** The channel, as the server names it. */
  get channel(): string {
    return this.#channel;
  }

  /** Everything up to here is handled; undefined before the server said where it starts, and on a queue. */
  get position(): Position | undefined {
    const offset = this.#inbox instanceof LogInbox ? this.#inbox.floor : undefined;
    return offset === undefined ? undefined : { offset, ...(this.#epoch !== undefined && { epoch: this.#epoch }) };
  }

  /** Whether messages come now. */
  get isActive(): boolean {
    return this.#phase === "on" || this.#phase === "paused";
  }

  /** Listens. Messages wait here, up to `maxBuffered`, until somebody listens or iterates. */
  on<Name extends keyof SubscriptionEvents<Data>>(name: Name, handler: (event: SubscriptionEvents<Data>[Name]) => unknown): Off {
    if (name !== "message") return this.#events.on(name, handler as (event: SubscriptionEvents<Data>[Name]) => void);
    const handle = handler as (message: Message<Data>) => unknown;
    this.#handlers.add(handle);
    void this.#pump();
    return () => void this.#handlers.delete(handle);
  }

  /**
   * Messages one by one. A message counts as handled when the next is asked for; where the loop is left, the
   * last one is not, unless it was acknowledged by hand. Ends with `unsubscribe`; throws when the server refuses
   * the subscription.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message<Data>, void, void> {
    for (;;) {
      const delivery = this.#take();
      if (delivery) {
        let isThrough = false;
        try {
          yield delivery;
          isThrough = true;
        } finally {
          if (isThrough || !this.#acks) this.#finish(delivery);
          else this.#inbox.leave(delivery.offset);
        }
      } else if (this.#failure) {
        throw this.#failure;
      } else if (this.#phase === "ended") {
        return;
      } else {
        await new Promise<void>((resolve) => this.#pulls.push(resolve));
      }
    }
  }

  /** Ends it. Messages that wait are not handled. Resolves when the server knows, or at once without a connection. */
  async unsubscribe(): Promise<void> {
    if (this.#phase === "ended") return;
    const isKnown = this.#phase !== "off";
    this.host.positions.delete(this.#channel);
    this.#end(undefined);
    if (isKnown) await this.#leave().catch(() => undefined);
  }

  /** What `connect` says of it; undefined where it is asked for on its own. @internal */
  fields(): SubFields | undefined {
    return this.#isEstablished ? this.#fields() : undefined;
  }

  /** There is a connection, whose `connect` named it or did not. @internal */
  connected(isNamed: boolean, isHome: boolean): void {
    this.#attempt = 0;
    if (!isHome && this.#inbox instanceof QueueInbox) this.#inbox.forget();
    if (isNamed) this.#phase = "asked";
    else if (this.#phase === "off") this.ask();
  }

  /** The connection is gone. @internal */
  lost(): void {
    if (this.#phase !== "ended") this.#phase = "off";
    this.host.env.clearTimeout(this.#ackTimer);
    this.#inbox.lost();
  }

  /** Asks the server for it. @internal */
  ask(): void {
    this.#phase = "asked";
    const onReply = (reply: Reply) => this.onSubscribed(reply as SubscribedFrame);
    const options = { resend: false, timeoutMs: 0, isOwn: true, onReply };
    const asked = this.host.requests.submit({ type: "subscribe", ...this.#fields() }, options);
    asked.catch((error: TidegateError) => this.#refused(error));
  }

  /** Whether the server's answer is awaited. @internal */
  get isAsked(): boolean {
    return this.#phase === "asked";
  }

  /** Whether the server's own subscription to the channel will do, which acknowledges nothing and starts where it likes. @internal */
  get isPlain(): boolean {
    return !this.#acks && this.#fields().offset === undefined;
  }

  /** Only a `connect` can ask for it as it is to be: another session begins with it. @internal */
  askInConnect(): void {
    if (this.#isAskedInConnect) {
      const why = "the user is another one in each session (anonymous?): acknowledgement and positions mean nothing in the own channel";
      return this.fail(new TidegateError("unsupported", why));
    }
    this.#isAskedInConnect = this.#isEstablished = true;
    this.host.renew(true);
  }

  /** The channel has this name from now on, and no position in it is known. @internal */
  rename(channel: string): void {
    if (channel === this.#channel) return;
    const from = this.#channel;
    this.#channel = channel;
    if (this.#inbox instanceof LogInbox && this.#isEstablished) this.#inbox = new LogInbox();
    this.#isEstablished = false;
    this.host.renamed(this, from);
  }

  /** @internal */
  onSubscribed(frame: SubscribedFrame): void {
    if (this.#phase === "ended") return;
    if (frame.channel !== this.#channel) this.rename(frame.channel);
    const { channel, offset, epoch, recovered } = frame;
    if (this.#inbox instanceof LogInbox) {
      const floor = this.#inbox.floor;
      const isBefore = floor !== undefined && compareOffsets(offset, floor) < 0;
      if (floor === undefined || (isBefore && this.#epoch !== undefined && this.#epoch !== epoch)) this.#inbox.restart(offset);
    }
    this.#epoch = epoch;
    this.#phase = "on";
    this.#isEstablished = true;
    this.#attempt = 0;
    const subscribed = { channel, position: { offset, epoch }, recovered };
    this.#setReady(subscribed);
    this.#events.emit("subscribed", subscribed);
    this.#sendAcks(true);
    this.host.requests.flush();
  }

  /** @internal */
  onMessage(frame: MessageFrame): void {
    if (!this.isActive) return;
    const mayWait = this.options.maxBuffered ?? 1000;
    if (this.#phase === "paused" || (this.#inbox.waiting >= mayWait && !this.#acks)) {
      this.#phase = "paused";
      return;
    }
    if (this.#inbox.receive(frame) === "handled") this.#sendAcks(true);
    else void this.#pump();
  }

  /** @internal */
  onPosition(frame: PositionFrame): void {
    if (this.#phase === "on") this.#skip(frame.offset, frame.epoch, false);
  }

  /** @internal */
  onGap(frame: GapFrame): void {
    const { channel, after, until, epoch, reason } = frame;
    // What is left in the log comes later, with its gaps.
    if (this.#phase !== "on") return;
    this.#skip(until, epoch, true);
    this.#events.emit("gap", { channel, after, until, epoch, reason });
  }

  /** The server refused it. @internal */
  fail(error: TidegateError): void {
    this.#report(error);
    this.#end(error);
  }

  /** The client ended, which tells why itself. @internal */
  close(error: TidegateError): void {
    this.#end(error.code === "closed" ? undefined : error);
  }

  get #acks(): boolean {
    return this.options.queue === true || (this.options.ack ?? "none") !== "none";
  }

  get #isManual(): boolean {
    return this.options.ack === "manual";
  }

  #fields(): SubFields {
    const { window } = this.options;
    if (!this.position) this.#start();
    return { channel: this.#channel, ...this.position, ...(this.#acks && { ack: true }), ...(window && { window }) };
  }

  /** Puts it where the application wants to start, if it says. */
  #start(): void {
    const { position, keepPosition } = this.options;
    const kept = keepPosition ? this.host.positions.get(this.#channel) : undefined;
    const start = kept ?? (position === "start" ? { offset: BEGINNING } : position);
    if (!start || !(this.#inbox instanceof LogInbox)) return;
    this.#inbox.floor = start.offset;
    this.#epoch = start.epoch;
  }

  #skip(until: string, epoch: string, isGap: boolean): void {
    this.#epoch = epoch;
    this.#inbox.skip(until, isGap);
    this.#moved();
  }

  #refused(error: TidegateError): void {
    if (this.#phase !== "asked" || error.code === "connection_lost" || error.code === "closed") return;
    if (error.code === "bad_request" && error.message.includes("already subscribed")) return this.#adopt();
    if (error.code !== "unavailable" && error.code !== "limit_exceeded") return this.fail(error);
    if (this.#attempt === 0) this.#report(error);
    const pause = 500 + fullJitter(this.#attempt++, this.host.env.random());
    this.host.env.setTimeout(() => this.#phase === "asked" && this.ask(), pause);
  }

  /** The server has a subscription of its own, or one of before: it is replaced by one as asked for here. */
  #adopt(): void {
    if (this.#isEstablished && this.#attempt === 0) return void this.#attempt++;
    if (this.#channel.startsWith("user:")) return this.askInConnect();
    this.#leave().catch(() => undefined);
    this.ask();
  }

  #leave(): Promise<unknown> {
    const options = { resend: false, timeoutMs: 0, isOwn: true };
    return this.host.requests.submit({ type: "unsubscribe", channel: this.#channel }, options);
  }

  #take(): Delivery<Data> | undefined {
    for (let frame = this.#inbox.take(); frame; frame = this.#inbox.take()) {
      const delay = this.options.nackDelayMs ?? 1000;
      const delivery = new Delivery<Data>(frame, delay, (settled, nackDelayMs) => this.#settle(settled, nackDelayMs));
      if (frame.msg_id === undefined || !this.host.handled.has(idOf(frame.channel, frame.msg_id))) return delivery;
      // Published twice, and handled under another offset.
      delivery.ack();
    }
    return undefined;
  }

  async #pump(): Promise<void> {
    this.#pulls.shift()?.();
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#handlers.size > 0 && this.#phase !== "ended") {
      const delivery = this.#take();
      if (!delivery) break;
      try {
        await Promise.all([...this.#handlers].map(async (handle) => handle(delivery)));
        this.#finish(delivery);
      } catch (thrown) {
        this.#failed(delivery, thrown);
      }
    }
    this.#isPumping = false;
  }

  /** The application is through with it. */
  #finish(delivery: Delivery<Data>): void {
    if (delivery.isSettled) return;
    if (this.#isManual) this.#inbox.leave(delivery.offset);
    else delivery.ack();
  }

  #failed(delivery: Delivery<Data>, thrown: unknown): void {
    this.#report(asError(thrown, "handler_failed", `the handler of ${delivery.channel} threw at ${delivery.offset}`));
    if (delivery.isSettled) return;
    if (this.#isManual) this.#inbox.leave(delivery.offset);
    else if (this.#acks) delivery.nack();
    else delivery.ack();
  }

  #settle({ channel, offset, msgId }: Delivery<Data>, nackDelayMs: number | undefined): void {
    if (nackDelayMs !== undefined && this.#acks) {
      this.#inbox.refuse(offset);
      if (this.isActive) this.host.send({ type: "nack", channel, offset, delay_ms: nackDelayMs });
      return;
    }
    this.#inbox.done(offset);
    if (msgId !== undefined) this.host.handled.add(idOf(channel, msgId));
    this.#sinceAck++;
    this.#moved();
    if (this.#phase === "paused" && this.#inbox.waiting === 0) this.#resume();
  }

  /** All that waited is handled: the rest is fetched from the log. */
  #resume(): void {
    if (this.#channel.startsWith("user:")) {
      this.#phase = "on";
      return this.host.renew(false);
    }
    this.#leave().catch(() => undefined);
    this.ask();
  }

  #moved(): void {
    const { position } = this;
    if (position && position.offset !== this.#told) {
      this.#told = position.offset;
      if (this.options.keepPosition) this.host.positions.set(this.#channel, position);
      this.#events.emit("position", position);
    }
    this.#sendAcks(false);
  }

  #sendAcks(isUrgent: boolean): void {
    if (!this.#acks || this.#phase !== "on") return;
    const now = this.host.env.now();
    const isDue = this.#inbox.waiting === 0 || this.#sinceAck >= ACK_EVERY || now - this.#ackedAt >= ACK_EVERY_MS;
    this.host.env.clearTimeout(this.#ackTimer);
    if (!isUrgent && !isDue && !this.options.queue) {
      this.#ackTimer = this.host.env.setTimeout(() => this.#sendAcks(true), ACK_EVERY_MS);
      return;
    }
    for (const offset of this.#inbox.takeAcks()) this.host.send({ type: "ack", channel: this.#channel, offset });
    [this.#sinceAck, this.#ackedAt] = [0, now];
  }

  #end(error: TidegateError | undefined): void {
    if (this.#phase === "ended") return;
    this.#phase = "ended";
    this.host.env.clearTimeout(this.#ackTimer);
    this.#failure = error;
    this.#setFailed(error ?? new TidegateError("closed", `unsubscribed from ${this.#channel}`));
    this.#pulls.splice(0).forEach((wake) => wake());
    this.host.ended(this);
  }

  /** Tells who listens here, else who listens to the client's errors. */
  #report(error: TidegateError): void {
    if (this.#events.has("error")) this.#events.emit("error", error);
    else this.host.report(error);
  }
}

function idOf(channel: string, msgId: string): string {
  return `${channel}\n${msgId}`;
}
