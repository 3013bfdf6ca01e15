/**
 * What an error is about. The first seven are the server's (docs/protocol.md, `error`); the others are made
 * by this client:
 *
 * - `closed`: the client was closed, or never connected and stopped.
 * - `refused`: the server ended the connection and said not to come back; `closeCode` and `reason` say why.
 * - `token_failed`: `getToken` threw or gave no token.
 * - `connection_lost`: the connection broke before the reply to a request that must not be sent twice.
 * - `timeout`: no reply came in time; whether the request was done is not known.
 * - `queue_full`: more requests wait for a connection or a reply than `maxQueued` or `maxQueuedBytes` allow.
 * - `handler_failed`: a handler of the application threw; `cause` is what it threw.
 * - `unsupported_here`: nothing of the transports asked for exists in this environment.
 * - `invalid`: an argument is not usable; the message says which.
 */
export type ErrorCode = "bad_request" | "forbidden" | "not_found" | "limit_exceeded" | "too_large" | "unavailable" | "unsupported" | "closed" | "refused" | "token_failed" | "connection_lost" | "timeout" | "queue_full" | "handler_failed" | "unsupported_here" | "invalid" | (string & {});
/** The one class of errors that this package throws, rejects with, and tells. */
export declare class TidegateError extends Error {
    /** What went wrong, for programs. */
    readonly code: ErrorCode;
    readonly name = "TidegateError";
    /** The close code, where a connection ended with one (4000 to 4299). */
    readonly closeCode: number | undefined;
    constructor(
    /** What went wrong, for programs. */
    code: ErrorCode, message: string, options?: {
        cause?: unknown;
        closeCode?: number | undefined;
    });
    /** Whether the same request may succeed later. */
    get isRetryable(): boolean;
}
/** Anything thrown, as a `TidegateError`. */
export declare function asError(thrown: unknown, code: ErrorCode, what: string): TidegateError;
