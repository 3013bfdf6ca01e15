/**
 * The interval between heartbeats to wish for on the next connection: half of the last one, and 10 s at
 * least, where a connection died in silence (something on the way forgot it, perhaps for want of traffic); a
 * quarter more, and 60 s at most, where it lived through 20 intervals. Else as it was.
 *
 * @param agreedMs what was agreed on the connection that ended, in milliseconds
 * @param livedMs  how long that connection lived, in milliseconds
 * @returns milliseconds, or undefined where there is no reason to wish for anything
 */
export declare function nextPing(agreedMs: number, livedMs: number, isSilent: boolean): number | undefined;
