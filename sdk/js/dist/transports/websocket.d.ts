import type { Environment } from "../environment.js";
import { type ClientFrame } from "../frames.js";
import { type Endpoint, type Transport, type TransportEvents } from "./transport.js";
/** A WebSocket (RFC 6455) with the subprotocol `tidegate.v1.json`. */
export declare class WebSocketTransport implements Transport {
    #private;
    private readonly events;
    constructor(endpoint: Endpoint, env: Environment, events: TransportEvents);
    send(frame: ClientFrame): void;
    close(goodbye: boolean): void;
}
