/**
 * Reads an event stream (HTML Standard, "Interpreting an event stream"), in pieces of any size. Only `data`
 * matters here: the frame itself says its type.
 */
export declare class EventReader {
    #private;
    /** The data of each complete event, and undefined for each comment, a heartbeat. Throws a RangeError at a line without end. */
    push(piece: string): (string | undefined)[];
}
