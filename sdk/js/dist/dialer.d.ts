import type { End } from "./backoff.js";
import { Connection } from "./connection.js";
import type { Environment } from "./environment.js";
import type { ConnectFrame, ConnectedFrame } from "./frames.js";
import type { NetworkMemory } from "./memory.js";
import { Routes } from "./route.js";
import type { TransportName } from "./transports/transport.js";
export interface DialerOptions {
    readonly addresses: readonly string[];
    readonly tenant: string;
    readonly transports: readonly TransportName[];
    readonly askRoute: boolean | undefined;
    readonly webTransportTimeoutMs: number;
    readonly headStartMs: number;
}
/** A connection that was greeted. */
export interface Dialled {
    readonly connection: Connection;
    readonly connected: ConnectedFrame;
}
/** Opens connections: goes through the addresses, their nodes, and the transports of each. */
export declare class Dialer {
    #private;
    private readonly options;
    private readonly env;
    private readonly memory;
    readonly routes: Routes;
    constructor(options: DialerOptions, env: Environment, memory: NetworkMemory);
    /**
     * One round: the first connection that the server greets, or how the round ended. The server's word
     * to stop or to come again at once ends the round; its word to back off ends it for that node.
     *
     * @param first an address to begin with, where the server named one
     * @param hello makes the `connect` frame, at the moment it is sent
     */
    dial(first: string | undefined, hello: () => ConnectFrame): Promise<Dialled | End>;
    /** Gives up what is being opened; the round in progress ends. */
    cancel(): void;
}
/** Whether this environment has what a transport needs. */
export declare function isUsable(env: Environment, transport: TransportName): boolean;
/**
 * A base address as it is used: http or https, without a path's end.
 *
 * @throws TidegateError `invalid` where it is not one
 */
export declare function normalAddress(url: string): string;
