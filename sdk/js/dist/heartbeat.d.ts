import type { Environment } from "./environment.js";
/**
 * Finds out whether the other end lives: sends `ping` when nothing was heard for a while, and takes the
 * connection for dead when nothing is heard after that. Anything that comes is an answer.
 */
export declare class Heartbeat {
    #private;
    private readonly env;
    private readonly quietMs;
    private readonly ping;
    private readonly dead;
    /** @param quietMs how long silence is not looked into, in milliseconds */
    constructor(env: Environment, quietMs: number, ping: () => void, dead: () => void);
    /** Something came. The timer stays as it is: it looks at this when it fires. */
    heard(): void;
    /** How long nothing was heard, in milliseconds. */
    get silence(): number;
    /** Asks now, and takes the connection for dead when nothing comes within `withinMs` milliseconds. */
    probe(withinMs: number): void;
    stop(): void;
}
