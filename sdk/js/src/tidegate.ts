/**
 * The client of Tidegate for browsers and Node.
 *
 * @module
 */
export { Tidegate } from "./client.js";
export type { ClientEvents, ClientState, Connected, HistoryOptions, PublishOptions } from "./client.js";
export { TidegateError, type ErrorCode } from "./errors.js";
export type { Off } from "./events.js";
export type { Offset, Position, PresenceFrame, Resumed } from "./frames.js";
export type { Disconnected } from "./link.js";
export type { Entry, Message } from "./message.js";
export { compareOffsets } from "./offsets.js";
export type { TidegateOptions } from "./options.js";
export { Subscription } from "./subscription.js";
export type { Gap, Subscribed, SubscribeOptions, SubscriptionEvents } from "./subscribing.js";
export type { GetToken, TokenReason } from "./token.js";
export type { WebSocketConstructor, WebSocketLike } from "./environment.js";
export type { TransportName } from "./transports/transport.js";
