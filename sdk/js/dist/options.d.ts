import type { WebSocketConstructor } from "./environment.js";
import type { GetToken } from "./token.js";
import { type TransportName } from "./transports/transport.js";
export interface TidegateOptions {
    /** Base addresses of nodes, such as `https://edge.example.com`: the one that worked last comes first. Default: the page's own. */
    readonly url?: string | readonly string[];
    readonly tenant: string;
    /** The token, where it need not be replaced. Without `token` and `getToken` the client connects anonymously. */
    readonly token?: string;
    /** Gives a token: asked at first, before the last one expires, and once more when the server refuses one. */
    readonly getToken?: GetToken;
    /** The device's name. Default: one of this tab, which a refresh keeps; none where there is no sessionStorage. `false`: none. */
    readonly device?: string | false;
    /** The transports to use, best first. Default: `["webtransport", "websocket", "sse"]`. */
    readonly transports?: readonly TransportName[];
    /** Whether addresses are asked for `/route` before connecting. Default: where WebTransport may be used. */
    readonly route?: boolean;
    /** How long WebTransport may take to open, in milliseconds. Default 2000. */
    readonly webTransportTimeoutMs?: number;
    /** After so many milliseconds of waiting for WebTransport a WebSocket is opened beside it. Default 500. */
    readonly headStartMs?: number;
    /** Milliseconds between heartbeats to wish for. Default: learned, see the README. */
    readonly pingMs?: number;
    /** Requests (publications too) that may wait for a connection or a reply. Default 256. */
    readonly maxQueued?: number;
    /** What they may have together, in bytes of JSON. Default 1048576. */
    readonly maxQueuedBytes?: number;
    /** How long a reply is waited for, offline time included, in milliseconds; 0 for as long as it takes. Default 60000. */
    readonly timeoutMs?: number;
    /** The WebSocket class, for Node 20: the one of the package `ws`. Default: the global one. */
    readonly webSocket?: WebSocketConstructor;
}
/** Options with defaults filled in. */
export interface Settings {
    readonly addresses: readonly string[];
    readonly tenant: string;
    readonly transports: readonly TransportName[];
    readonly timeoutMs: number;
}
/** @throws TidegateError `invalid`: what is wrong with the options, and what they should be */
export declare function settle(options: TidegateOptions): Settings;
