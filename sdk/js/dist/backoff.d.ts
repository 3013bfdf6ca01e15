/** The longest pause before the first attempt, in milliseconds; it doubles from attempt to attempt. */
export declare const FIRST_MS = 1000;
/** The longest pause at all, in milliseconds. */
export declare const LONGEST_MS = 60000;
/** A connection that lasted so long makes the next pause short again, in milliseconds. */
export declare const LASTED_MS = 10000;
/**
 * Exponential backoff with full jitter: anything between nothing and the limit, so that clients that lost
 * their connections together do not come back together.
 *
 * @param attempt how many attempts failed before this one, from 0
 * @param random  a number from 0 up to 1
 */
export declare function fullJitter(attempt: number, random: number): number;
/** How a connection, or an attempt at one, ended. */
export interface End {
    /** The close code, where there was one. */
    readonly code?: number | undefined;
    readonly reason: string;
    /** The server's wish, in milliseconds. */
    readonly retryAfterMs?: number | undefined;
    /** The base address to come back to. */
    readonly url?: string | undefined;
}
/** What to do after an end: `"stop"`, or the pause in milliseconds before the next attempt. */
export type Next = "stop" | number;
/**
 * What the close code's range says (docs/protocol.md, "How a connection ends"): 4000–4099 stop, 4200–4299
 * reconnect now or after `retryAfterMs`, anything else backs off, at least `retryAfterMs`.
 *
 * @param attempt how many attempts failed since a connection last lasted; "now" is believed twice in a row,
 *                then it backs off like anything else, so that a server in trouble is not stormed
 */
export declare function whatNext(end: End, attempt: number, random: number): Next;
/**
 * Reads `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date.
 *
 * @returns milliseconds, or undefined where it says nothing usable
 */
export declare function retryAfter(header: string | null, now: number): number | undefined;
