import type { End } from "../backoff.js";
import type { Environment } from "../environment.js";
import type { ClientFrame, ServerFrame } from "../frames.js";
/** The transports, in the order in which they are wanted. */
export declare const TRANSPORTS: readonly TransportName[];
export type TransportName = "webtransport" | "websocket" | "sse";
/** Where one transport of one node is reached. */
export interface Endpoint {
    readonly transport: TransportName;
    /** The base address that the application or the server named; what is remembered is kept under it. */
    readonly address: string;
    readonly url: string;
    /** Hashes of development certificates, for WebTransport. */
    readonly certificateHashes?: readonly {
        readonly algorithm: string;
        readonly value: string;
    }[];
}
/** What a transport tells. Nothing is told after `closed`, nor after the owner's `close`. */
export interface TransportEvents {
    /** `connect` can be sent. */
    opened(): void;
    frame(frame: ServerFrame): void;
    /** Something came that is no frame: the path lives. */
    heard(): void;
    closed(end: End): void;
}
/** One connection over one transport: frames, and nothing about what they mean. */
export interface Transport {
    /** Sends a frame, in order. The first one is `connect`. What cannot be sent any more is dropped. */
    send(frame: ClientFrame): void;
    /** Ends it; `goodbye` ends the session, too, where the transport can say so. */
    close(goodbye: boolean): void;
}
/** Begins to open a transport; throws where the environment refuses even that. */
export type TransportConstructor = new (endpoint: Endpoint, env: Environment, events: TransportEvents) => Transport;
/** The close code for a connection that goes while its session stays: any but 1000 (docs/protocol.md). */
export declare const LEAVING = 3000;
