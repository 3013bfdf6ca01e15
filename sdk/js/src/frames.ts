// The frames of wire protocol v1 in JSON, as docs/protocol.md describes them.

/** A position in a channel's log: `<milliseconds>-<sequence>`. Compare two with `compareOffsets`, never as text. */
export type Offset = string;

/** Where something stands in a channel: an offset, and the life of the store in which it means something. */
export interface Position {
  readonly offset: Offset;
  readonly epoch?: string;
}

/** What a frame says a subscription should be like. */
export interface SubFields {
  channel: string;
  offset?: Offset;
  epoch?: string;
  ack?: boolean;
  window?: number;
}

/** The payload fields of a frame: `enc` says how `data` is to be read. */
export interface PayloadFields {
  data: unknown;
  enc?: "text" | "base64";
}

export interface ConnectFrame {
  type: "connect";
  token?: string;
  resume?: string;
  device?: string;
  ping_ms?: number;
  subs?: SubFields[];
}

/** A request: the server answers it under its `id`. */
export type RequestFrame =
  | ({ type: "subscribe"; id: number } & SubFields)
  | { type: "unsubscribe"; id: number; channel: string }
  | ({ type: "publish"; id: number; channel: string; key?: string; msg_id?: string } & PayloadFields)
  | ({ type: "send"; id: number; topic?: string } & PayloadFields)
  | { type: "history"; id: number; channel: string; limit: number; before?: Offset; after?: Offset }
  | { type: "presence"; id: number; channel: string }
  | { type: "refresh"; id: number; token: string };

export type ClientFrame =
  | ConnectFrame
  | RequestFrame
  | { type: "ack"; channel: string; offset: Offset }
  | { type: "nack"; channel: string; offset: Offset; delay_ms?: number }
  | { type: "ping" };

/** What a resumed session kept: see "Coming back: resume" in docs/protocol.md. */
export type Resumed = "new" | "home" | "moved" | "lost";

export interface ConnectedFrame {
  type: "connected";
  session: string;
  user: string;
  device?: string;
  resume: string;
  resumed: Resumed;
  node: string;
  ping_ms: number;
}

export interface SubscribedFrame {
  type: "subscribed";
  id?: number;
  channel: string;
  offset: Offset;
  epoch: string;
  recovered?: boolean;
}

export interface LogEntry extends PayloadFields {
  offset: Offset;
  headers?: Record<string, string>;
  key?: string;
  msg_id?: string;
}

export interface MessageFrame extends LogEntry {
  type: "message";
  channel: string;
  attempt: number;
}

export interface PositionFrame {
  type: "position";
  channel: string;
  offset: Offset;
  epoch: string;
}

export interface GapFrame {
  type: "gap";
  channel: string;
  after: Offset;
  until: Offset;
  epoch: string;
  reason: string;
}

export interface OkFrame {
  type: "ok";
  id: number;
  offset?: Offset;
  epoch?: string;
  messages?: LogEntry[];
  [field: string]: unknown;
}

export interface ErrorFrame {
  type: "error";
  id?: number;
  channel?: string;
  code: string;
  message: string;
}

export interface DrainFrame {
  type: "drain";
  retry_after_ms: number;
  url?: string;
}

export interface DisconnectFrame {
  type: "disconnect";
  code: number;
  reason: string;
  message?: string;
  reconnect?: boolean;
  retry_after_ms?: number;
  url?: string;
}

/** Someone came or went, in namespaces that keep presence. The fields beside `channel` are the server's. */
export interface PresenceFrame {
  type: "join" | "leave";
  channel: string;
  [field: string]: unknown;
}

export type ServerFrame =
  | ConnectedFrame
  | SubscribedFrame
  | MessageFrame
  | PositionFrame
  | GapFrame
  | OkFrame
  | ErrorFrame
  | DrainFrame
  | DisconnectFrame
  | PresenceFrame
  | { type: "pong" };

/** Reads one frame; undefined for what is no JSON object with a `type`. */
export function parseFrame(text: string): ServerFrame | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isFrame = typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string";
    return isFrame ? (value as ServerFrame) : undefined;
  } catch {
    return undefined;
  }
}
