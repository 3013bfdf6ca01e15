/** The shortest interval between heartbeats that is wished for, in milliseconds. */
const SHORTEST_MS = 10_000;
/** The longest one, in milliseconds. */
const LONGEST_MS = 60_000;
/** A connection that lived through so many intervals shows that the network bears a longer one. */
const PROVEN_INTERVALS = 20;

/**
 * The interval between heartbeats to wish for on the next connection: half of the last one, and 10 s at
 * least, where a connection died in silence (something on the way forgot it, perhaps for want of traffic); a
 * quarter more, and 60 s at most, where it lived through 20 intervals. Else as it was.
 *
 * @param agreedMs what was agreed on the connection that ended, in milliseconds
 * @param livedMs  how long that connection lived, in milliseconds
 * @returns milliseconds, or undefined where there is no reason to wish for anything
 */
export function nextPing(agreedMs: number, livedMs: number, isSilent: boolean): number | undefined {
  if (isSilent) return Math.min(agreedMs, Math.max(SHORTEST_MS, Math.round(agreedMs / 2)));
  if (livedMs < agreedMs * PROVEN_INTERVALS) return undefined;
  return Math.max(agreedMs, Math.min(LONGEST_MS, Math.round(agreedMs * 1.25)));
}
