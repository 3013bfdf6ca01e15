import type { Connection, ConnectionEnd } from "./connection.js";
import { tabDevice, type Device } from "./device.js";
import { Dialer, isUsable } from "./dialer.js";
import { realEnvironment, randomName, type Environment, type Wake } from "./environment.js";
import { asError, TidegateError } from "./errors.js";
import { Events, type Off } from "./events.js";
import type { ClientFrame, ConnectFrame, ConnectedFrame, Offset, OkFrame, PresenceFrame, Resumed, ServerFrame } from "./frames.js";
import { Recent } from "./inbox.js";
import { Link, type Disconnected } from "./link.js";
import { NetworkMemory } from "./memory.js";
import { entryOf, type Entry } from "./message.js";
import { settle, type Settings, type TidegateOptions } from "./options.js";
import { nextPing } from "./pace.js";
import { encodePayload } from "./payload.js";
import { PositionStore } from "./positions.js";
import { Requests, type Wish } from "./requests.js";
import type { SubscribeOptions } from "./subscribing.js";
import type { Subscription } from "./subscription.js";
import { Subscriptions } from "./subscriptions.js";
import { TokenSource } from "./token.js";
import type { TransportName } from "./transports/transport.js";

/** Idempotency keys of handled messages that are remembered, at most. */
const REMEMBERED_IDS = 1024;
/** The pause before a token that could not be refreshed is asked for again, in milliseconds. */
const REFRESH_AGAIN_MS = 10_000;

/**
 * - `idle`: `connect` was not called yet
 * - `connecting`: a connection is being opened
 * - `connected`: there is one
 * - `waiting`: the pause before the next attempt
 * - `closed`: it is over, by `close` or by the server's word
 */
export type ClientState = "idle" | "connecting" | "connected" | "waiting" | "closed";

/** The connection that is in use now. */
export interface Connected {
  readonly session: string;
  readonly user: string;
  readonly device: string | undefined;
  /** What was kept of the session before: see docs/protocol.md, "Coming back: resume". */
  readonly resumed: Resumed;
  readonly node: string;
  readonly transport: TransportName;
  readonly url: string;
  /** Milliseconds between heartbeats, as agreed. */
  readonly pingMs: number;
}

export interface ClientEvents {
  state: ClientState;
  connected: Connected;
  disconnected: Disconnected;
  /** The node goes away; another connection is opened after so many milliseconds, and nothing is to be done. */
  drain: { readonly retryAfterMs: number };
  /** Someone came to or left a channel, in namespaces that keep presence. */
  presence: PresenceFrame;
  /** Whatever went wrong that no promise and no subscription tells. */
  error: TidegateError;
}

export interface PublishOptions {
  /** Conflation key. */
  readonly key?: string;
  /** Idempotency key: publishing again with the same one does nothing. Default: a random one. */
  readonly msgId?: string;
  /** How long the reply is waited for, offline time included, in milliseconds; 0 for as long as it takes. Default: the client's. */
  readonly timeoutMs?: number;
}

export interface HistoryOptions {
  /** Entries, at most; the server may give fewer. */
  readonly limit: number;
  /** Only below this offset: the newest of those. */
  readonly before?: Offset;
  /** Only above this offset: the oldest of those. Not together with `before`. */
  readonly after?: Offset;
}

/** A client of one tenant: one connection at a time, kept up over everything that interrupts it. */
export class Tidegate {
  #env: Environment;
  #settings: Settings;
  #events: Events<ClientEvents>;
  #memory: NetworkMemory;
  #tokens: TokenSource;
  #requests: Requests;
  #positions: PositionStore;
  #subscriptions: Subscriptions;
  #link: Link | undefined;
  #connection: Connection | undefined;
  #connected: Connected | undefined;
  #resume: string | undefined;
  #named = new Set<string>();
  #device: Device | undefined;
  #offWake: (() => void) | undefined;
  #state: ClientState = "idle";
  #opening: { promise: Promise<void>; resolve: () => void; reject: (error: TidegateError) => void } | undefined;

  /** @throws TidegateError `invalid` or `unsupported_here`: what is wrong with the options */
  constructor(private readonly options: TidegateOptions) {
    const env = options.environment ?? realEnvironment(options.webSocket);
    this.#env = env;
    this.#settings = settle(options);
    const { tenant, transports } = this.#settings;
    if (!transports.some((name) => isUsable(env, name))) {
      const none = `there is none of ${transports.join(", ")} here; in Node 20 give \`webSocket\` from the package ws`;
      throw new TidegateError("unsupported_here", none);
    }
    this.#events = new Events((thrown, name) => {
      const error = asError(thrown, "handler_failed", `a handler of \`${name}\` threw`);
      if (name === "error") warn(error);
      else this.#report(error);
    });
    this.#memory = new NetworkMemory(env, tenant);
    this.#tokens = new TokenSource(env, options.token, options.getToken);
    this.#requests = new Requests(env, { maxQueued: options.maxQueued ?? 256, maxQueuedBytes: options.maxQueuedBytes ?? 1_048_576 });
    this.#positions = new PositionStore(env, tenant);
    this.#subscriptions = new Subscriptions({
      env,
      requests: this.#requests,
      positions: this.#positions,
      handled: new Recent(REMEMBERED_IDS),
      send: (frame: ClientFrame) => this.#connection?.send(frame),
      report: (error: TidegateError) => this.#report(error),
      renew: (afresh: boolean) => this.#renew(afresh),
    });
  }

  get state(): ClientState {
    return this.#state;
  }

  /** The connection in use; undefined while there is none. */
  get connection(): Connected | undefined {
    return this.#connected;
  }

  /** Calls the handler on every such event, until the function returned is called. */
  on<Name extends keyof ClientEvents & string>(name: Name, handler: (event: ClientEvents[Name]) => void): Off {
    return this.#events.on(name, handler);
  }

  /**
   * Connects, and stays connected until `close` or until the server says not to come back. Resolves when there is
   * a connection for the first time; rejects with `refused` or `closed`. Calling it again gives the same promise.
   */
  connect(): Promise<void> {
    if (this.#opening) return this.#opening.promise;
    let [resolve, reject] = [() => undefined as void, (_: TidegateError) => undefined as void];
    const promise = new Promise<void>((done, failed) => ([resolve, reject] = [done, failed]));
    promise.catch(() => undefined);
    this.#opening = { promise, resolve, reject };
    this.#requests.reopen();
    this.#offWake = this.#env.onWake((wake) => this.#woke(wake));
    void this.#run();
    return promise;
  }

  /**
   * Ends the session, every subscription, and every request that has no reply yet. `connect` begins anew. Resolves
   * when the goodbye is on its way.
   */
  async close(): Promise<void> {
    this.#stop(new TidegateError("closed", "the client was closed"), true);
  }

  /**
   * Subscribes, now or as soon as there is a connection, and again on every later one.
   *
   * @throws TidegateError `invalid` or `limit_exceeded`
   */
  subscribe<Data = unknown>(channel: string, options: SubscribeOptions = {}): Subscription<Data> {
    return this.#subscriptions.add(channel, options, this.#connection !== undefined);
  }

  /** The subscription to the user's own channel, `user:<id>`, whose name the server tells. */
  personal<Data = unknown>(options: SubscribeOptions = {}): Subscription<Data> {
    return this.#subscriptions.own("user", options, this.#connected);
  }

  /** The subscription to this session's own channel, where backends reply to what `send` sent. */
  replies<Data = unknown>(options: SubscribeOptions = {}): Subscription<Data> {
    return this.#subscriptions.own("session", options, this.#connected);
  }

  /**
   * Publishes. Without a connection it waits for one; when the connection breaks before the reply it is sent
   * again, which its idempotency key makes harmless.
   *
   * Resolves with the message's offset, which is absent where a plugin sent it elsewhere. Rejects with a
   * `TidegateError`: the server's code, `invalid`, `queue_full`, `timeout` or `closed`.
   */
  async publish(channel: string, data: unknown, options: PublishOptions = {}): Promise<{ offset: Offset | undefined }> {
    const { key, msgId = randomName(), timeoutMs = this.#settings.timeoutMs } = options;
    const wish = { type: "publish", channel, ...encodePayload(data), ...(key !== undefined && { key }), msg_id: msgId } as const;
    const isReady = () => this.#subscriptions.isReady(channel);
    const { offset } = (await this.#requests.submit(wish, { resend: true, timeoutMs, isReady })) as OkFrame;
    return { offset };
  }

  /**
   * Sends to the tenant's backends. Without a connection it waits for one. It has no idempotency key: when the
   * connection breaks before the reply it rejects with `connection_lost` rather than being sent twice.
   */
  async send(data: unknown, options: { topic?: string; timeoutMs?: number } = {}): Promise<void> {
    const { topic, timeoutMs = this.#settings.timeoutMs } = options;
    const wish = { type: "send", ...encodePayload(data), ...(topic !== undefined && { topic }) } as const;
    await this.#requests.submit(wish, { resend: false, timeoutMs });
  }

  /** Reads from a channel's log without subscribing, oldest first. */
  async history<Data = unknown>(channel: string, options: HistoryOptions): Promise<{ entries: Entry<Data>[]; epoch: string | undefined }> {
    const { limit, before, after } = options;
    const bounds = { ...(before !== undefined && { before }), ...(after !== undefined && { after }) };
    const reply = await this.#ask({ type: "history", channel, limit, ...bounds });
    return { entries: (reply.messages ?? []).map((entry) => entryOf<Data>(channel, entry)), epoch: reply.epoch };
  }

  /** Who is in a channel, as the server says it. Rejects with `unsupported` where the namespace does not keep presence. */
  async presence(channel: string): Promise<Readonly<Record<string, unknown>>> {
    const { type, id, ...answer } = await this.#ask({ type: "presence", channel });
    return answer;
  }

  /**
   * Replaces the token before it expires. With `getToken` this happens by itself.
   *
   * @param token default: what `getToken` gives
   */
  async refresh(token?: string): Promise<void> {
    if (token !== undefined) this.#tokens.replace(token);
    const current = await this.#tokens.current();
    if (current === undefined) throw new TidegateError("invalid", "there is no token to refresh: give one, or the option `getToken`");
    await this.#ask({ type: "refresh", token: current });
    this.#tokens.watch(() => void this.#refreshAlone());
  }

  async #ask(wish: Wish): Promise<OkFrame> {
    return (await this.#requests.submit(wish, { resend: true, timeoutMs: this.#settings.timeoutMs })) as OkFrame;
  }

  async #run(): Promise<void> {
    const { tenant, transports, addresses } = this.#settings;
    const { device, route, webTransportTimeoutMs = 2000, headStartMs = 500 } = this.options;
    this.#become("connecting");
    const opening = this.#opening;
    if (device === undefined) this.#device ??= await tabDevice(this.#env, tenant);
    if (this.#opening !== opening) return this.#releaseDevice();
    const dialer = new Dialer({ addresses, tenant, transports, askRoute: route, webTransportTimeoutMs, headStartMs }, this.#env, this.#memory);
    this.#link = new Link(this.#env, dialer, this.#tokens, {
      hello: (token) => this.#hello(token),
      connecting: () => this.#become("connecting"),
      connected: (connection, frame) => this.#onConnected(connection, frame),
      lost: (connection, end, livedMs) => this.#onLost(connection, end, livedMs),
      waiting: (disconnected) => {
        this.#become("waiting");
        this.#events.emit("disconnected", disconnected);
      },
      report: (error) => this.#report(error),
      stopped: (error) => this.#stop(error, false),
    });
    await this.#link.run();
  }

  #hello(token: string | undefined): ConnectFrame {
    const { device = this.#device?.name, pingMs = this.#memory.pingMs } = this.options;
    const subs = this.#subscriptions.fields();
    this.#named = new Set(subs.map(({ channel }) => channel));
    return {
      type: "connect",
      ...(token !== undefined && { token }),
      ...(this.#resume !== undefined && { resume: this.#resume }),
      ...(typeof device === "string" && { device }),
      ...(pingMs !== undefined && { ping_ms: Math.round(pingMs) }),
      ...(subs.length > 0 && { subs }),
    };
  }

  #onConnected(connection: Connection, frame: ConnectedFrame): void {
    if (this.#connection) this.#drop();
    const { transport, url } = connection.endpoint;
    const { session, user, device, resumed, node, ping_ms: pingMs } = frame;
    this.#connection = connection;
    const connected = { session, user, device, resumed, node, transport, url, pingMs };
    this.#connected = connected;
    this.#resume = frame.resume;
    this.#become("connected");
    this.#subscriptions.connected(frame, this.#named);
    this.#requests.connected((request) => connection.send(request));
    this.#tokens.watch(() => void this.#refreshAlone());
    this.#opening?.resolve();
    this.#events.emit("connected", connected);
    connection.listen((next) => this.#take(next));
  }

  #onLost(connection: Connection, end: ConnectionEnd, livedMs: number): void {
    const wish = nextPing(connection.pingMs, livedMs, end.silent === true);
    if (wish !== undefined && this.options.pingMs === undefined) this.#memory.pingMs = wish;
    if (this.#connection !== connection) return;
    this.#drop();
    this.#become("waiting");
  }

  /** What was on its way on the connection is not any more. */
  #drop(): void {
    this.#connection = this.#connected = undefined;
    this.#tokens.stop();
    this.#requests.lost();
    this.#subscriptions.lost();
  }

  #take(frame: ServerFrame): void {
    if (this.#subscriptions.take(frame)) return;
    switch (frame.type) {
      case "ok":
      case "subscribed":
        return this.#requests.reply(frame);
      case "error":
        if (frame.id !== undefined) return this.#requests.reply(frame);
        return this.#report(new TidegateError(frame.code, frame.message));
      case "drain":
        this.#events.emit("drain", { retryAfterMs: frame.retry_after_ms });
        return this.#link?.drain(frame);
      case "join":
      case "leave":
        return this.#events.emit("presence", frame);
      default:
        // Later versions of the protocol have frames that this one does not know.
        return;
    }
  }

  #renew(afresh: boolean): void {
    if (afresh) this.#resume = undefined;
    this.#link?.renew(afresh);
  }

  #woke(wake: Wake): void {
    if (wake === "leaving") this.#positions.flush();
    else this.#link?.woke(wake);
  }

  async #refreshAlone(): Promise<void> {
    try {
      await this.refresh();
    } catch (thrown) {
      const error = asError(thrown, "token_failed", "the token was not refreshed");
      if (!this.#connection || error.code === "closed") return;
      this.#report(error);
      this.#env.setTimeout(() => this.#connection && void this.#refreshAlone(), REFRESH_AGAIN_MS);
    }
  }

  #stop(error: TidegateError, goodbye: boolean): void {
    if (this.#state === "closed" || this.#state === "idle") return;
    this.#link?.stop(goodbye);
    this.#link = undefined;
    this.#connection = this.#connected = this.#resume = undefined;
    this.#offWake?.();
    this.#tokens.stop();
    this.#positions.flush();
    this.#opening?.reject(error);
    this.#opening = undefined;
    this.#requests.close(error);
    this.#subscriptions.close(error);
    this.#releaseDevice();
    this.#become("closed");
  }

  #releaseDevice(): void {
    this.#device?.release();
    this.#device = undefined;
  }

  #become(state: ClientState): void {
    if (this.#state === state) return;
    this.#state = state;
    this.#events.emit("state", state);
  }

  /** Errors that nobody listens to are not lost in silence. */
  #report(error: TidegateError): void {
    if (this.#events.has("error")) this.#events.emit("error", error);
    else warn(error);
  }
}

function warn(error: TidegateError): void {
  console.warn(`tidegate: ${error.code}: ${error.message}`);
}
