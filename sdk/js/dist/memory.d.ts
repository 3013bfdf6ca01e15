import { type Environment } from "./environment.js";
import type { TransportName } from "./transports/transport.js";
/**
 * What worked in which network, kept in localStorage where there is one. A network is what
 * `navigator.connection` tells of it; an entry is about one address in one network, or about the network.
 */
export declare class NetworkMemory {
    #private;
    private readonly env;
    constructor(env: Environment, tenant: string);
    /** Whether the transport failed here lately, so that others come first. */
    isResting(address: string, transport: TransportName): boolean;
    /** The transport that worked last at this address. */
    worked(address: string): TransportName | undefined;
    /** A transport worked after others had failed at the same address: those rest for a while. */
    succeeded(address: string, transport: TransportName, failed: readonly TransportName[]): void;
    /** The address that worked last in this network. */
    get address(): string | undefined;
    /** The interval between heartbeats that suits this network, in milliseconds. */
    get pingMs(): number | undefined;
    set pingMs(ms: number);
}
