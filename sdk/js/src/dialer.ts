import type { End } from "./backoff.js";
import { Connection } from "./connection.js";
import type { Environment } from "./environment.js";
import { TidegateError } from "./errors.js";
import type { ConnectFrame, ConnectedFrame } from "./frames.js";
import type { NetworkMemory } from "./memory.js";
import { Routes, usualNode, type Node } from "./route.js";
import type { Endpoint, TransportName } from "./transports/transport.js";

/** How long a WebSocket is waited for, in milliseconds. */
const OPEN_MS = 10_000;

export interface DialerOptions {
  readonly addresses: readonly string[];
  readonly tenant: string;
  readonly transports: readonly TransportName[];
  readonly askRoute: boolean | undefined;
  readonly webTransportTimeoutMs: number;
  readonly headStartMs: number;
}

/** A connection that was greeted. */
export interface Dialled {
  readonly connection: Connection;
  readonly connected: ConnectedFrame;
}

/** Opens connections: goes through the addresses, their nodes, and the transports of each. */
export class Dialer {
  readonly routes: Routes;
  #open = new Set<Connection>();
  #cancelled = false;

  constructor(
    private readonly options: DialerOptions,
    private readonly env: Environment,
    private readonly memory: NetworkMemory,
  ) {
    this.routes = new Routes(env, options.tenant);
  }

  /**
   * One round: the first connection that the server greets, or how the round ended. The server's word
   * to stop or to come again at once ends the round; its word to back off ends it for that node.
   *
   * @param first an address to begin with, where the server named one
   * @param hello makes the `connect` frame, at the moment it is sent
   */
  async dial(first: string | undefined, hello: () => ConnectFrame): Promise<Dialled | End> {
    this.#cancelled = false;
    let last: End = { reason: "no address has a transport that can be used here" };
    for (const address of this.#addresses(first)) {
      for (const node of await this.#nodes(address)) {
        const tried = await this.#tryNode(node, hello);
        if (this.#cancelled) return { reason: "cancelled" };
        if (!tried) continue;
        if ("connection" in tried || isFinal(tried)) return tried;
        last = { ...tried, retryAfterMs: Math.max(tried.retryAfterMs ?? 0, last.retryAfterMs ?? 0) };
      }
    }
    // What was said about the nodes may be out of date.
    this.routes.forget();
    return last;
  }

  /** Gives up what is being opened; the round in progress ends. */
  cancel(): void {
    this.#cancelled = true;
    for (const connection of this.#open) connection.close(false);
  }

  #addresses(first: string | undefined): string[] {
    const known = this.options.addresses;
    const good = this.memory.address;
    const order = [usable(first), good !== undefined && known.includes(good) ? good : undefined, ...known];
    return [...new Set(order.filter((address) => address !== undefined))];
  }

  async #nodes(address: string): Promise<Node[]> {
    const usable = this.options.transports.filter((name) => isUsable(this.env, name));
    const asks = (this.options.askRoute ?? usable.includes("webtransport")) && this.env.fetch !== undefined;
    const told = asks ? await this.routes.ask(address) : [];
    const usual = usualNode(address, this.options.tenant);
    const urls = new Set(told.flat().map(({ url }) => url));
    // A node that answered said whether it has WebTransport: the guess is for those that did not.
    const rest = usual.filter(({ url, transport }) => !urls.has(url) && (transport !== "webtransport" || told.length === 0));
    return [...told, rest].map((node) => {
      return usable.flatMap((name) => node.filter(({ transport }) => transport === name));
    });
  }

  async #tryNode(node: Node, hello: () => ConnectFrame): Promise<Dialled | End | undefined> {
    const rested = node.filter(({ address, transport }) => !this.memory.isResting(address, transport));
    const left = [...(rested.length > 0 ? rested : node)];
    const failed: TransportName[] = [];
    let last: End | undefined;
    while (left.length > 0 && !this.#cancelled) {
      const connection = await this.#openNext(left, failed);
      const connected = (await connection.opened) ? await connection.greet(hello()) : undefined;
      this.#open.delete(connection);
      const { address, transport } = connection.endpoint;
      if (connected) {
        this.memory.succeeded(address, transport, failed);
        return { connection, connected };
      }
      last = await connection.ended;
      if (wasSaid(last)) return last;
      failed.push(transport);
    }
    return last;
  }

  /**
   * Opens the next transport that is left. WebTransport gets a head start and then a WebSocket beside it:
   * the first to open goes on, and a WebTransport that was not has failed.
   */
  async #openNext(left: Endpoint[], failed: TransportName[]): Promise<Connection> {
    const first = this.#begin(left.shift()!);
    const rival = left[0]?.transport === "websocket" ? left[0] : undefined;
    if (first.endpoint.transport !== "webtransport" || !rival) return first;
    const worked = this.memory.worked(rival.address) === "webtransport";
    const headStart = worked ? this.options.webTransportTimeoutMs : this.options.headStartMs;
    const early = await Promise.race([first.opened, this.#after(headStart)]);
    if (early || this.#cancelled) return first;
    const second = this.#begin(rival);
    const winner = await firstOpened([first, second]);
    const loser = winner === first ? second : first;
    loser.close(false);
    this.#open.delete(loser);
    if (winner === second) {
      left.shift();
      failed.push("webtransport");
    }
    return winner;
  }

  #begin(endpoint: Endpoint): Connection {
    const within = endpoint.transport === "webtransport" ? this.options.webTransportTimeoutMs : OPEN_MS;
    const connection = new Connection(this.env, endpoint, within);
    this.#open.add(connection);
    return connection;
  }

  #after(ms: number): Promise<false> {
    return new Promise((resolve) => this.env.setTimeout(() => resolve(false), ms));
  }
}

/** The first of two to open; the second where neither does. */
async function firstOpened([first, second]: readonly [Connection, Connection]): Promise<Connection> {
  const opened = (connection: Connection) => {
    return connection.opened.then((did) => (did ? connection : Promise.reject(new Error("did not open"))));
  };
  return Promise.any([opened(first), opened(second)]).catch(() => second);
}

/** An address that the server named, if it is one. */
function usable(url: string | undefined): string | undefined {
  try {
    return url && normalAddress(url);
  } catch {
    return undefined;
  }
}

/** Whether the server said how to go on, rather than that the way to it failed. */
function wasSaid({ code = 0 }: End): boolean {
  return code >= 4000 && code < 4300;
}

function isFinal({ code = 0 }: End): boolean {
  return wasSaid({ code, reason: "" }) && !(code >= 4100 && code < 4200);
}

/** Whether this environment has what a transport needs. */
export function isUsable(env: Environment, transport: TransportName): boolean {
  const needs = { webtransport: env.WebTransport, websocket: env.WebSocket, sse: env.fetch };
  return needs[transport] !== undefined;
}

/**
 * A base address as it is used: http or https, without a path's end.
 *
 * @throws TidegateError `invalid` where it is not one
 */
export function normalAddress(url: string): string {
  const given = url.trim().replace(/^ws(?=s?:)/, "http").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/?#\s]+(\/[^?#\s]*)?$/.test(given)) {
    throw new TidegateError("invalid", `\`url\` is a base address such as https://edge.example.com, not ${JSON.stringify(url)}`);
  }
  return given;
}
