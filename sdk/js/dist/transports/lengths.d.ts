/** The longest frame that is accepted, in bytes: a page of history with large payloads fits. */
export declare const LONGEST_FRAME: number;
/** A frame's bytes with their length in front. */
export declare function withLength(bytes: Uint8Array): Uint8Array;
/** Cuts a stream of bytes, in chunks of any size, into frames. */
export declare class LengthReader {
    #private;
    /** Takes a chunk and returns the frames that are complete; throws a RangeError where a length is out of bounds. */
    push(chunk: Uint8Array): Uint8Array[];
}
