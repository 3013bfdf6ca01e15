import type { Offset } from "./frames.js";

const FORM = /^(\d{1,20})-(\d{1,20})$/;

/** The offset that stands before every message. */
export const BEGINNING: Offset = "0-0";

/** Whether it has the form of an offset. */
export function isOffset(value: unknown): value is Offset {
  return typeof value === "string" && FORM.test(value);
}

/**
 * Compares two offsets as the pairs of 64-bit numbers that they are: below 0 where `a` comes first, above
 * 0 where `b` does, 0 where they are equal. Something else than an offset counts as the beginning.
 */
export function compareOffsets(a: Offset, b: Offset): number {
  if (a === b) return 0;
  const [left, right] = [parts(a), parts(b)];
  for (const at of [0, 1] as const) {
    if (left[at] !== right[at]) return left[at] < right[at] ? -1 : 1;
  }
  return 0;
}

function parts(offset: Offset): readonly [bigint, bigint] {
  const found = FORM.exec(offset);
  return found ? [BigInt(found[1]!), BigInt(found[2]!)] : [0n, 0n];
}
