import type { PayloadFields } from "./frames.js";
/**
 * A payload as the frame's `data` and `enc`: bytes go as base64, everything else as JSON that stands as it
 * is. A string is sent as its text.
 *
 * @throws TidegateError `invalid` where it cannot be said in JSON
 */
export declare function encodePayload(data: unknown): PayloadFields;
/** A payload as the application sees it: the JSON value, a string, or a `Uint8Array`. */
export declare function decodePayload({ data, enc }: PayloadFields): unknown;
