import { type Environment } from "./environment.js";
import type { Position } from "./frames.js";
/** Positions of channels that outlive a refresh of the page: in sessionStorage, which each tab has of its own. */
export declare class PositionStore {
    #private;
    private readonly env;
    constructor(env: Environment, tenant: string);
    get(channel: string): Position | undefined;
    set(channel: string, position: Position): void;
    /** The application is through with the channel. */
    delete(channel: string): void;
    /** Writes now: the page may go away. */
    flush(): void;
}
