import type { Environment } from "../environment.js";
import { type ClientFrame } from "../frames.js";
import { type Endpoint, type Transport, type TransportEvents } from "./transport.js";
/**
 * WebTransport over HTTP/3: one bidirectional stream with a length before each frame, and whole frames or
 * heartbeats (empty) as datagrams from the server.
 */
export declare class WebTransportTransport implements Transport {
    #private;
    private readonly env;
    private readonly events;
    constructor(endpoint: Endpoint, env: Environment, events: TransportEvents);
    send(frame: ClientFrame): void;
    close(goodbye: boolean): void;
}
