import type { MessageFrame, Offset } from "./frames.js";
/** What a message that came turned out to be. `handled`: the application is through with it, so is an ack due. */
export type Received = "new" | "known" | "handled";
/** Messages of one subscription between the connection and the application. */
export interface Inbox {
    /** A message came. Only what the application handled, or is handling, is dropped. */
    receive(message: MessageFrame): Received;
    /** The next message for the application, which handles it from now on. */
    take(): MessageFrame | undefined;
    /** The handler is through with it without saying what became of it. */
    leave(offset: Offset): void;
    /** It is handled. */
    done(offset: Offset): void;
    /** It could not be handled: it comes again. */
    refuse(offset: Offset): void;
    /** Nothing up to here comes any more; `gap` also takes what was refused or left open. */
    skip(until: Offset, gap: boolean): void;
    /** The connection is gone; what it was to bring of acks may not have arrived. */
    lost(): void;
    /** The offsets to acknowledge now. Each is given once. */
    takeAcks(): Offset[];
    /** Messages that wait for the application. */
    readonly waiting: number;
}
/** Of a log: acknowledgement is cumulative, so it goes as far as everything before is handled. */
export declare class LogInbox implements Inbox {
    #private;
    /** Everything up to here is handled, or does not come: where to go on from. */
    floor: Offset | undefined;
    waiting: number;
    receive(message: MessageFrame): Received;
    take(): MessageFrame | undefined;
    leave(offset: Offset): void;
    done(offset: Offset): void;
    refuse(offset: Offset): void;
    skip(until: Offset, gap: boolean): void;
    /** Delivery starts after `offset` in another life of the store: what was known of positions is void. */
    restart(offset: Offset): void;
    lost(): void;
    takeAcks(): Offset[];
}
/** Of a queue: each message is work of its own, and acknowledged alone. */
export declare class QueueInbox implements Inbox {
    #private;
    get waiting(): number;
    receive(message: MessageFrame): Received;
    take(): MessageFrame | undefined;
    leave(offset: Offset): void;
    done(offset: Offset): void;
    refuse(offset: Offset): void;
    skip(): void;
    takeAcks(): Offset[];
    /** The connection is gone: what nobody began goes to whoever is next, or comes again. */
    lost(): void;
    /** The session is another one: it never had the tasks whose acks wait. */
    forget(): void;
}
/** The most recent of many names: as a set, bounded. */
export declare class Recent {
    #private;
    private readonly most;
    constructor(most: number);
    has(name: string): boolean;
    add(name: string): void;
}
