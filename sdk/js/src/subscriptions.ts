import { TidegateError } from "./errors.js";
import type { ConnectedFrame, ErrorFrame, ServerFrame, SubFields } from "./frames.js";
import type { Host, SubscribeOptions } from "./subscribing.js";
import { isOffset } from "./offsets.js";
import { Subscription } from "./subscription.js";

/** Subscriptions of one client, at most: a session may have 128 channels. */
const MOST = 128;

type OwnKind = "user" | "session";

/** All subscriptions of a client, by the channel's name. */
export class Subscriptions {
  #named = new Map<string, Subscription<any>>();
  /** Subscriptions to the channels of the user and the session, whose names the server tells. */
  #own = new Map<OwnKind, Subscription<any>>();
  /** Channels that were left without a connection; a session that was kept still has them. */
  #left = new Set<string>();
  #host: Host;
  /** The user's own channel, as the server named it last. */
  #userChannel: string | undefined;

  constructor(host: Omit<Host, "renamed" | "ended">) {
    this.#host = {
      ...host,
      renamed: (subscription, from) => this.#renamed(subscription, from),
      ended: (subscription) => this.#ended(subscription),
    };
  }

  /** @throws TidegateError `invalid` for a wrong option or name, or where there is one already, `limit_exceeded` where there are too many */
  add<Data>(channel: string, options: SubscribeOptions, isConnected: boolean): Subscription<Data> {
    check(options);
    if (!isName(channel)) {
      throw new TidegateError("invalid", `a channel is named <namespace>:<rest>, not ${JSON.stringify(channel)}`);
    }
    if (this.#named.has(channel)) throw new TidegateError("invalid", `there is a subscription to ${channel} already`);
    if (this.#all().size >= MOST) {
      throw new TidegateError("limit_exceeded", `a client has ${MOST} subscriptions at most`);
    }
    const subscription = new Subscription<Data>(this.#host, channel, options);
    this.#named.set(channel, subscription);
    this.#left.delete(channel);
    if (isConnected) subscription.ask();
    return subscription;
  }

  /** The subscription to the user's or the session's own channel; made where there is none yet. */
  own<Data>(kind: OwnKind, options: SubscribeOptions, connected: { readonly session: string } | undefined): Subscription<Data> {
    check(options);
    const known = this.#own.get(kind);
    if (known) return known;
    const subscription = new Subscription<Data>(this.#host, `${kind}:`, options);
    this.#own.set(kind, subscription);
    if (connected && kind === "session") this.#begin(subscription, `session:${connected.session}`);
    if (connected && kind === "user" && this.#userChannel) {
      // What came so far is gone: another session begins with it.
      subscription.rename(this.#userChannel);
      subscription.askInConnect();
    }
    return subscription;
  }

  /** Whether a publication to the channel may go: where it is being subscribed to, not before that is done. */
  isReady(channel: string): boolean {
    return this.#named.get(channel)?.isActive ?? true;
  }

  /** What `connect` says about those that existed before. */
  fields(): SubFields[] {
    return [...this.#named.values()].flatMap((subscription) => subscription.fields() ?? []);
  }

  /** There is a connection, whose `connect` named these channels. */
  connected(frame: ConnectedFrame, named: ReadonlySet<string>): void {
    for (const [channel, subscription] of [...this.#named]) {
      const isOther = subscription === this.#own.get("session") && channel !== `session:${frame.session}`;
      if (!isOther) subscription.connected(named.has(channel), frame.resumed === "home");
    }
    const replies = this.#own.get("session");
    if (replies && replies.channel !== `session:${frame.session}`) this.#begin(replies, `session:${frame.session}`);
    if (frame.resumed === "home") this.#left.forEach((channel) => this.#leave(channel));
    this.#left.clear();
  }

  lost(): void {
    for (const subscription of this.#all()) subscription.lost();
  }

  /** Takes a frame about a channel; false where it is about none of these. */
  take(frame: ServerFrame): boolean {
    switch (frame.type) {
      case "subscribed":
        // Those with an `id` are replies, and go the way of replies.
        if (frame.id === undefined) this.#subscribed(frame.channel)?.onSubscribed(frame);
        return frame.id === undefined;
      case "message":
        this.#named.get(frame.channel)?.onMessage(frame);
        return true;
      case "position":
        this.#named.get(frame.channel)?.onPosition(frame);
        return true;
      case "gap":
        this.#named.get(frame.channel)?.onGap(frame);
        return true;
      case "error":
        return frame.id === undefined && this.#failed(frame);
      default:
        return false;
    }
  }

  /** The client is closed. */
  close(error: TidegateError): void {
    for (const subscription of this.#all()) subscription.close(error);
  }

  #all(): Set<Subscription<any>> {
    return new Set([...this.#named.values(), ...this.#own.values()]);
  }

  /** Whose `subscribed` this is, where nobody asked for it on this connection. */
  #subscribed(channel: string): Subscription<any> | undefined {
    const isUser = channel.startsWith("user:");
    if (isUser) this.#userChannel = channel;
    const known = this.#named.get(channel);
    const own = this.#own.get("user");
    if (known || !own || !isUser) return known;
    own.rename(channel);
    if (own.isPlain) return own;
    own.askInConnect();
    return undefined;
  }

  /** A refusal without an `id` concerns one of those that `connect` named, or one that the new token does not allow. */
  #failed(frame: ErrorFrame): boolean {
    const error = new TidegateError(frame.code, frame.message);
    const named = frame.channel === undefined ? undefined : this.#named.get(frame.channel);
    if (named && (named.isAsked || frame.code === "forbidden")) {
      named.fail(error);
      return true;
    }
    const asked = [...this.#named.values()].filter((subscription) => subscription.isAsked);
    // It does not say which: each is asked for again, under an `id`.
    if (frame.channel === undefined) asked.forEach((subscription) => subscription.ask());
    return asked.length > 0;
  }

  #begin(subscription: Subscription<any>, channel: string): void {
    subscription.lost();
    subscription.rename(channel);
    subscription.connected(false, false);
  }

  #leave(channel: string): void {
    const options = { resend: false, timeoutMs: 0, isOwn: true };
    this.#host.requests.submit({ type: "unsubscribe", channel }, options).catch(() => undefined);
  }

  #renamed(subscription: Subscription<any>, from: string): void {
    if (this.#named.get(from) === subscription) this.#named.delete(from);
    this.#named.set(subscription.channel, subscription);
  }

  #ended(subscription: Subscription<any>): void {
    if (this.#named.get(subscription.channel) === subscription) this.#named.delete(subscription.channel);
    for (const [kind, own] of this.#own) if (own === subscription) this.#own.delete(kind);
    // What was published to it waited for it.
    this.#host.requests.flush();
    if (this.#left.size < MOST && isName(subscription.channel)) this.#left.add(subscription.channel);
  }
}

function isName(channel: string): boolean {
  return /^[a-z0-9_-]{1,32}:.+$/.test(channel);
}

/** @throws TidegateError `invalid`: which option is wrong, and what it should be */
function check({ ack, window, position, maxBuffered, nackDelayMs }: SubscribeOptions): void {
  const wrong = (name: string, wanted: string, got: unknown) => {
    return new TidegateError("invalid", `\`${name}\` is ${wanted}, not ${JSON.stringify(got)}`);
  };
  if (ack !== undefined && !["none", "auto", "manual"].includes(ack)) throw wrong("ack", '"none", "auto" or "manual"', ack);
  if (position !== undefined && position !== "start" && !isOffset(position.offset)) {
    throw wrong("position", '"start" or { offset, epoch? }', position);
  }
  for (const [name, value] of Object.entries({ window, maxBuffered })) {
    if (value !== undefined && !(Number.isInteger(value) && value >= 1)) throw wrong(name, "a whole number from 1", value);
  }
  if (nackDelayMs !== undefined && !(nackDelayMs >= 0)) throw wrong("nackDelayMs", "a number from 0", nackDelayMs);
}
