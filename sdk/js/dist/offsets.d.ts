import type { Offset } from "./frames.js";
/** The offset that stands before every message. */
export declare const BEGINNING: Offset;
/** Whether it has the form of an offset. */
export declare function isOffset(value: unknown): value is Offset;
/**
 * Compares two offsets as the pairs of 64-bit numbers that they are: below 0 where `a` comes first, above
 * 0 where `b` does, 0 where they are equal. Something else than an offset counts as the beginning.
 */
export declare function compareOffsets(a: Offset, b: Offset): number;
