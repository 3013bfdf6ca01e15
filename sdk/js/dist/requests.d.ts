import { TidegateError } from "./errors.js";
import type { Environment } from "./environment.js";
import type { ErrorFrame, OkFrame, RequestFrame, SubscribedFrame } from "./frames.js";
/** Any request without its `id`. */
export type Wish = RequestFrame extends infer Frame ? (Frame extends RequestFrame ? Omit<Frame, "id"> : never) : never;
export type Reply = OkFrame | SubscribedFrame;
export interface RequestOptions {
    /** Whether it may be sent again when the connection breaks before the reply. */
    readonly resend: boolean;
    /** How long the reply is waited for, from now on, in milliseconds; 0 for as long as it takes. */
    readonly timeoutMs: number;
    /** Whether it may be sent yet. */
    readonly isReady?: () => boolean;
    /** Called with the reply before any later frame is looked at, which a promise cannot promise. */
    readonly onReply?: (reply: Reply) => void;
    /** The client's own requests, which are few and bounded elsewhere. */
    readonly isOwn?: boolean;
}
export interface RequestLimits {
    readonly maxQueued: number;
    readonly maxQueuedBytes: number;
}
/** Requests that wait for a connection or for their replies, in order and bounded. */
export declare class Requests {
    #private;
    private readonly env;
    private readonly limits;
    constructor(env: Environment, limits: RequestLimits);
    /**
     * Sends a request as soon as it can be sent.
     *
     * Rejects with a `TidegateError`: the server's code, `queue_full`, `timeout`, `connection_lost` or `closed`.
     */
    submit(wish: Wish, options: RequestOptions): Promise<Reply>;
    /** There is a connection. */
    connected(send: (frame: RequestFrame) => void): void;
    /** The connection is gone: what may be sent again waits for the next, the rest fails. */
    lost(): void;
    /** Sends what can be sent. */
    flush(): void;
    /** Gives a reply to whoever asked. */
    reply(frame: Reply | ErrorFrame): void;
    /** Requests may come again. */
    reopen(): void;
    /** Nothing is sent any more, and nothing taken until it is opened again. */
    close(error: TidegateError): void;
}
