import type { Connection, ConnectionEnd } from "./connection.js";
import type { Dialer } from "./dialer.js";
import type { Environment, Wake } from "./environment.js";
import { TidegateError } from "./errors.js";
import type { ConnectFrame, ConnectedFrame, DrainFrame } from "./frames.js";
import type { TokenSource } from "./token.js";
/** How a connection ended, and what happens next. */
export interface Disconnected {
    /** The close code, where there was one. */
    readonly code: number | undefined;
    readonly reason: string;
    /** Milliseconds until the next attempt; undefined where there is none. */
    readonly retryInMs: number | undefined;
}
/** What a link tells its owner. */
export interface LinkEvents {
    /** What to say in `connect`. */
    hello(token: string | undefined): ConnectFrame;
    connecting(): void;
    /** A connection is there and is the one to use; an older one, if any, is not any more. */
    connected(connection: Connection, frame: ConnectedFrame): void;
    /** The connection in use ended. */
    lost(connection: Connection, end: ConnectionEnd, livedMs: number): void;
    /** An attempt failed or a connection ended, and this is what happens now. */
    waiting(disconnected: Disconnected): void;
    report(error: TidegateError): void;
    /** It is over, for good. */
    stopped(error: TidegateError): void;
}
/** Keeps one connection: opens it, and opens the next when it ended, drains or is to be renewed. */
export declare class Link {
    #private;
    private readonly env;
    private readonly dialer;
    private readonly tokens;
    private readonly events;
    constructor(env: Environment, dialer: Dialer, tokens: TokenSource, events: LinkEvents);
    /** Runs until it is stopped. Never rejects. */
    run(): Promise<void>;
    /** Ends it. `goodbye` ends the session too. */
    stop(goodbye: boolean): void;
    /** The page came back, or the network may be another one. */
    woke(wake: Wake): void;
    /** The server asks its clients to go elsewhere: the next connection is opened after the pause, then this one is let go. */
    drain({ retry_after_ms: ms, url }: DrainFrame): void;
    /** Opens another connection at once and lets the present one go; `afresh` as another session. */
    renew(afresh: boolean): void;
}
