import { TidegateError } from "./errors.js";
import { type Off } from "./events.js";
import type { Offset, PresenceFrame, Resumed } from "./frames.js";
import { type Disconnected } from "./link.js";
import { type Entry } from "./message.js";
import { type TidegateOptions } from "./options.js";
import type { SubscribeOptions } from "./subscribing.js";
import type { Subscription } from "./subscription.js";
import type { TransportName } from "./transports/transport.js";
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
    drain: {
        readonly retryAfterMs: number;
    };
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
export declare class Tidegate {
    #private;
    private readonly options;
    /** @throws TidegateError `invalid` or `unsupported_here`: what is wrong with the options */
    constructor(options: TidegateOptions);
    get state(): ClientState;
    /** The connection in use; undefined while there is none. */
    get connection(): Connected | undefined;
    /** Calls the handler on every such event, until the function returned is called. */
    on<Name extends keyof ClientEvents & string>(name: Name, handler: (event: ClientEvents[Name]) => void): Off;
    /**
     * Connects, and stays connected until `close` or until the server says not to come back. Resolves when there is
     * a connection for the first time; rejects with `refused` or `closed`. Calling it again gives the same promise.
     */
    connect(): Promise<void>;
    /**
     * Ends the session, every subscription, and every request that has no reply yet. `connect` begins anew. Resolves
     * when the goodbye is on its way.
     */
    close(): Promise<void>;
    /**
     * Subscribes, now or as soon as there is a connection, and again on every later one.
     *
     * @throws TidegateError `invalid` or `limit_exceeded`
     */
    subscribe<Data = unknown>(channel: string, options?: SubscribeOptions): Subscription<Data>;
    /** The subscription to the user's own channel, `user:<id>`, whose name the server tells. */
    personal<Data = unknown>(options?: SubscribeOptions): Subscription<Data>;
    /** The subscription to this session's own channel, where backends reply to what `send` sent. */
    replies<Data = unknown>(options?: SubscribeOptions): Subscription<Data>;
    /**
     * Publishes. Without a connection it waits for one; when the connection breaks before the reply it is sent
     * again, which its idempotency key makes harmless.
     *
     * Resolves with the message's offset, which is absent where a plugin sent it elsewhere. Rejects with a
     * `TidegateError`: the server's code, `invalid`, `queue_full`, `timeout` or `closed`.
     */
    publish(channel: string, data: unknown, options?: PublishOptions): Promise<{
        offset: Offset | undefined;
    }>;
    /**
     * Sends to the tenant's backends. Without a connection it waits for one. It has no idempotency key: when the
     * connection breaks before the reply it rejects with `connection_lost` rather than being sent twice.
     */
    send(data: unknown, options?: {
        topic?: string;
        timeoutMs?: number;
    }): Promise<void>;
    /** Reads from a channel's log without subscribing, oldest first. */
    history<Data = unknown>(channel: string, options: HistoryOptions): Promise<{
        entries: Entry<Data>[];
        epoch: string | undefined;
    }>;
    /** Who is in a channel, as the server says it. Rejects with `unsupported` where the namespace does not keep presence. */
    presence(channel: string): Promise<Readonly<Record<string, unknown>>>;
    /**
     * Replaces the token before it expires. With `getToken` this happens by itself.
     *
     * @param token default: what `getToken` gives
     */
    refresh(token?: string): Promise<void>;
}
