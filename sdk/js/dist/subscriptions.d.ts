import { TidegateError } from "./errors.js";
import type { ConnectedFrame, ServerFrame, SubFields } from "./frames.js";
import type { Host, SubscribeOptions } from "./subscribing.js";
import { Subscription } from "./subscription.js";
type OwnKind = "user" | "session";
/** All subscriptions of a client, by the channel's name. */
export declare class Subscriptions {
    #private;
    constructor(host: Omit<Host, "renamed" | "ended">);
    /** @throws TidegateError `invalid` for a wrong option or name, or where there is one already, `limit_exceeded` where there are too many */
    add<Data>(channel: string, options: SubscribeOptions, isConnected: boolean): Subscription<Data>;
    /** The subscription to the user's or the session's own channel; made where there is none yet. */
    own<Data>(kind: OwnKind, options: SubscribeOptions, connected: {
        readonly session: string;
    } | undefined): Subscription<Data>;
    /** Whether a publication to the channel may go: where it is being subscribed to, not before that is done. */
    isReady(channel: string): boolean;
    /** What `connect` says about those that existed before. */
    fields(): SubFields[];
    /** There is a connection, whose `connect` named these channels. */
    connected(frame: ConnectedFrame, named: ReadonlySet<string>): void;
    lost(): void;
    /** Takes a frame about a channel; false where it is about none of these. */
    take(frame: ServerFrame): boolean;
    /** The client is closed. */
    close(error: TidegateError): void;
}
export {};
