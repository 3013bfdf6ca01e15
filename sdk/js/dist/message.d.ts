import type { LogEntry, MessageFrame, Offset } from "./frames.js";
/** An entry of a channel's log, as `history` gives it. */
export interface Entry<Data = unknown> {
    readonly channel: string;
    /** Its place in the channel: compare two with `compareOffsets`. */
    readonly offset: Offset;
    /** The payload: a JSON value, a string where it is other text, a `Uint8Array` where it is other bytes. */
    readonly data: Data;
    /** What the publisher said about it, such as `content-type`. */
    readonly headers: Readonly<Record<string, string>>;
    /** The conflation key. */
    readonly key: string | undefined;
    /** The idempotency key that it was published with. */
    readonly msgId: string | undefined;
}
/** A message of a subscription. */
export interface Message<Data = unknown> extends Entry<Data> {
    /** 1 the first time it is sent, more when it is sent again. */
    readonly attempt: number;
    /** Says that it is handled. Without acknowledgement, and the second time, it does nothing. */
    ack(): void;
    /**
     * Says that it could not be handled: it comes again.
     *
     * @param delayMs after so many milliseconds; by default the subscription's `nackDelayMs`, doubled with each attempt
     */
    nack(delayMs?: number): void;
}
export declare function entryOf<Data>(channel: string, frame: LogEntry): Entry<Data>;
/** A message in the hands of the application: it is settled once. */
export declare class Delivery<Data> implements Message<Data> {
    #private;
    readonly channel: string;
    readonly offset: Offset;
    readonly data: Data;
    readonly headers: Readonly<Record<string, string>>;
    readonly key: string | undefined;
    readonly msgId: string | undefined;
    readonly attempt: number;
    constructor(frame: MessageFrame, nackDelayMs: number, settle: (delivery: Delivery<Data>, nackDelayMs: number | undefined) => void);
    get isSettled(): boolean;
    ack(): void;
    nack(delayMs?: number): void;
}
