import type { End } from "./backoff.js";
import type { Environment } from "./environment.js";
import type { ClientFrame, ConnectFrame, ConnectedFrame, ServerFrame } from "./frames.js";
import type { Endpoint } from "./transports/transport.js";
/** How a connection ended, and what that says about the network. */
export interface ConnectionEnd extends End {
    /** Whether it was silence that ended it: nothing came for longer than it may. */
    readonly silent?: boolean;
}
/** One connection: from opening it over `connect` and `connected` to its end, which comes exactly once. */
export declare class Connection {
    #private;
    private readonly env;
    readonly endpoint: Endpoint;
    /** Whether it opened. Resolves with false where it ended before. */
    readonly opened: Promise<boolean>;
    /** How it ended. Never rejects. */
    readonly ended: Promise<ConnectionEnd>;
    /** Milliseconds between heartbeats, as agreed; 0 before. */
    pingMs: number;
    constructor(env: Environment, endpoint: Endpoint, openWithinMs: number);
    /** Sends `connect`. Resolves with `connected`, or undefined where the connection ended before. */
    greet(frame: ConnectFrame): Promise<ConnectedFrame | undefined>;
    /** Hands over every frame that came after `connected`, and those that come. */
    listen(onFrame: (frame: ServerFrame) => void): void;
    send(frame: ClientFrame): void;
    /** Asks whether the other end is there, and ends the connection if it is not. */
    probe(): void;
    /** Ends it from here. `goodbye` ends the session as well, where the transport can say so. */
    close(goodbye: boolean): void;
}
