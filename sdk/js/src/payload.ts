import { TidegateError } from "./errors.js";
import type { PayloadFields } from "./frames.js";

/**
 * A payload as the frame's `data` and `enc`: bytes go as base64, everything else as JSON that stands as it
 * is. A string is sent as its text.
 *
 * @throws TidegateError `invalid` where it cannot be said in JSON
 */
export function encodePayload(data: unknown): PayloadFields {
  if (data instanceof Uint8Array) return { data: toBase64(data), enc: "base64" };
  if (data instanceof ArrayBuffer) return { data: toBase64(new Uint8Array(data)), enc: "base64" };
  if (typeof data === "string") return { data, enc: "text" };
  let text: string | undefined;
  try {
    text = JSON.stringify(data);
  } catch (cause) {
    throw new TidegateError("invalid", `the payload cannot be said in JSON: ${(cause as Error).message}`, { cause });
  }
  if (text === undefined) throw new TidegateError("invalid", `a payload is a JSON value, a string or bytes, not ${typeof data}`);
  // What JSON made of it, now and not when it is sent: the application may change its object meanwhile.
  return { data: JSON.parse(text) as unknown };
}

/** A payload as the application sees it: the JSON value, a string, or a `Uint8Array`. */
export function decodePayload({ data, enc }: PayloadFields): unknown {
  return enc === "base64" && typeof data === "string" ? fromBase64(data) : data;
}

function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x2000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x2000));
  return btoa(binary);
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}
