import type { Environment } from "../environment.js";
import { type ClientFrame } from "../frames.js";
import type { Endpoint, Transport, TransportEvents } from "./transport.js";
/**
 * Server-sent events, read from the body of a `POST` by fetch; what the client says goes by `POST` to
 * `frames`, one request at a time, so that the order holds.
 */
export declare class SseTransport implements Transport {
    #private;
    private readonly endpoint;
    private readonly env;
    private readonly events;
    constructor(endpoint: Endpoint, env: Environment, events: TransportEvents);
    send(frame: ClientFrame): void;
    close(): void;
}
