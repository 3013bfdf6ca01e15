import type { Environment } from "./environment.js";
import type { Endpoint } from "./transports/transport.js";
/** The transports of one node. */
export type Node = readonly Endpoint[];
/** Asks addresses for `/v1/<tenant>/route`: which nodes there are, and how each is reached. */
export declare class Routes {
    #private;
    private readonly env;
    private readonly tenant;
    constructor(env: Environment, tenant: string);
    /** The nodes in the server's order; empty where it does not say. Never rejects. */
    ask(address: string): Promise<Node[]>;
    /** Everything is asked again: the network may be another one, or what was said did not work. */
    forget(): void;
}
/** The transports at the usual places of an address, for when nothing more is known. */
export declare function usualNode(address: string, tenant: string): Node;
