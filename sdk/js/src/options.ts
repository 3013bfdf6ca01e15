import { normalAddress } from "./dialer.js";
import type { Environment, WebSocketConstructor } from "./environment.js";
import { TidegateError } from "./errors.js";
import type { GetToken } from "./token.js";
import { TRANSPORTS, type TransportName } from "./transports/transport.js";

export interface TidegateOptions {
  /** Base addresses of nodes, such as `https://edge.example.com`: the one that worked last comes first. Default: the page's own. */
  readonly url?: string | readonly string[];
  readonly tenant: string;
  /** The token, where it need not be replaced. Without `token` and `getToken` the client connects anonymously. */
  readonly token?: string;
  /** Gives a token: asked at first, before the last one expires, and once more when the server refuses one. */
  readonly getToken?: GetToken;
  /** The device's name. Default: one of this tab, which a refresh keeps; none where there is no sessionStorage. `false`: none. */
  readonly device?: string | false;
  /** The transports to use, best first. Default: `["webtransport", "websocket", "sse"]`. */
  readonly transports?: readonly TransportName[];
  /** Whether addresses are asked for `/route` before connecting. Default: where WebTransport may be used. */
  readonly route?: boolean;
  /** How long WebTransport may take to open, in milliseconds. Default 2000. */
  readonly webTransportTimeoutMs?: number;
  /** After so many milliseconds of waiting for WebTransport a WebSocket is opened beside it. Default 500. */
  readonly headStartMs?: number;
  /** Milliseconds between heartbeats to wish for. Default: learned, see the README. */
  readonly pingMs?: number;
  /** Requests (publications too) that may wait for a connection or a reply. Default 256. */
  readonly maxQueued?: number;
  /** What they may have together, in bytes of JSON. Default 1048576. */
  readonly maxQueuedBytes?: number;
  /** How long a reply is waited for, offline time included, in milliseconds; 0 for as long as it takes. Default 60000. */
  readonly timeoutMs?: number;
  /** The WebSocket class, for Node 20: the one of the package `ws`. Default: the global one. */
  readonly webSocket?: WebSocketConstructor;
  /** @internal Replaces the world in tests. */
  readonly environment?: Environment;
}

/** Options with defaults filled in. */
export interface Settings {
  readonly addresses: readonly string[];
  readonly tenant: string;
  readonly transports: readonly TransportName[];
  readonly timeoutMs: number;
}

/** @throws TidegateError `invalid`: what is wrong with the options, and what they should be */
export function settle(options: TidegateOptions): Settings {
  const { tenant, transports = TRANSPORTS, timeoutMs = 60_000 } = options;
  const here = (globalThis as { location?: { origin?: string } }).location?.origin;
  const given = options.url ?? here ?? [];
  const addresses = (typeof given === "string" ? [given] : given).map(normalAddress);
  if (addresses.length === 0) throw new TidegateError("invalid", "`url` is missing: the base address of a node");
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(tenant)) {
    throw new TidegateError("invalid", `\`tenant\` is a name of a-z, 0-9 and -, not ${JSON.stringify(tenant)}`);
  }
  const unknown = transports.find((name) => !TRANSPORTS.includes(name));
  if (unknown !== undefined || transports.length === 0) {
    throw new TidegateError("invalid", `\`transports\` lists some of ${TRANSPORTS.join(", ")}, not ${JSON.stringify(transports)}`);
  }
  for (const name of ["webTransportTimeoutMs", "headStartMs", "pingMs", "maxQueued", "maxQueuedBytes", "timeoutMs"] as const) {
    const value = options[name];
    if (value !== undefined && !(value >= 0)) throw new TidegateError("invalid", `\`${name}\` is a number from 0, not ${String(value)}`);
  }
  return { addresses, tenant, transports, timeoutMs };
}
