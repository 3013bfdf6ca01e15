import { type Off } from "./events.js";
import type { Position } from "./frames.js";
import { type Message } from "./message.js";
import type { Subscribed, SubscribeOptions, SubscriptionEvents } from "./subscribing.js";
/** Interest in a channel. It lasts over connections until `unsubscribe`, or until the server refuses it. */
export declare class Subscription<Data = unknown> implements AsyncIterable<Message<Data>> {
    #private;
    private readonly host;
    readonly options: SubscribeOptions;
    /** Resolves at the first `subscribed`; rejects with the server's `TidegateError` when it is refused. */
    readonly ready: Promise<Subscribed>;
    /** The channel, as the server names it. */
    get channel(): string;
    /** Everything up to here is handled; undefined before the server said where it starts, and on a queue. */
    get position(): Position | undefined;
    /** Whether messages come now. */
    get isActive(): boolean;
    /** Listens. Messages wait here, up to `maxBuffered`, until somebody listens or iterates. */
    on<Name extends keyof SubscriptionEvents<Data>>(name: Name, handler: (event: SubscriptionEvents<Data>[Name]) => unknown): Off;
    /**
     * Messages one by one. A message counts as handled when the next is asked for; where the loop is left, the
     * last one is not, unless it was acknowledged by hand. Ends with `unsubscribe`; throws when the server refuses
     * the subscription.
     */
    [Symbol.asyncIterator](): AsyncGenerator<Message<Data>, void, void>;
    /** Ends it. Messages that wait are not handled. Resolves when the server knows, or at once without a connection. */
    unsubscribe(): Promise<void>;
}
