import type { Environment } from "./environment.js";
import type { Endpoint, TransportName } from "./transports/transport.js";

/** How long an answer is good for, in milliseconds. One with hashes of certificates is not kept: a node that restarts has others. */
const GOOD_MS = 5 * 60_000;
/** How long an answer is waited for, in milliseconds. */
const WAIT_MS = 2_000;
/** Nodes of an answer that are looked at, at most. */
const MOST_NODES = 8;

/** Answers that are kept, at most. */
const MOST_KEPT = 32;

/** The transports of one node. */
export type Node = readonly Endpoint[];

interface RouteAnswer {
  nodes?: { transports?: Partial<Record<TransportName, { url?: unknown; certificate_hashes?: unknown }>> }[];
}

/** Asks addresses for `/v1/<tenant>/route`: which nodes there are, and how each is reached. */
export class Routes {
  #known = new Map<string, { nodes: Node[]; until: number }>();

  constructor(private readonly env: Environment, private readonly tenant: string) {}

  /** The nodes in the server's order; empty where it does not say. Never rejects. */
  async ask(address: string): Promise<Node[]> {
    const known = this.#known.get(address);
    if (known && known.until > this.env.now()) return known.nodes;
    const abort = new AbortController();
    const timer = this.env.setTimeout(() => abort.abort(), WAIT_MS);
    try {
      const url = `${address}/v1/${this.tenant}/route`;
      const response = await this.env.fetch!(url, { signal: abort.signal, cache: "no-store", credentials: "omit" });
      if (!response.ok) return [];
      const nodes = readRoute((await response.json()) as RouteAnswer, address);
      if (nodes.flat().some(({ certificateHashes }) => certificateHashes)) return nodes;
      if (this.#known.size >= MOST_KEPT) this.forget();
      this.#known.set(address, { nodes, until: this.env.now() + GOOD_MS });
      return nodes;
    } catch {
      return [];
    } finally {
      this.env.clearTimeout(timer);
    }
  }

  /** Everything is asked again: the network may be another one, or what was said did not work. */
  forget(): void {
    this.#known.clear();
  }
}

const SCHEMES: Record<TransportName, RegExp> = { webtransport: /^https:\/\//, websocket: /^wss?:\/\//, sse: /^https?:\/\// };

function readRoute(answer: RouteAnswer, address: string): Node[] {
  const nodes = Array.isArray(answer?.nodes) ? answer.nodes.slice(0, MOST_NODES) : [];
  return nodes.map((node) => {
    return (Object.keys(SCHEMES) as TransportName[]).flatMap((transport): Endpoint[] => {
      const { url, certificate_hashes: hashes } = node?.transports?.[transport] ?? {};
      if (typeof url !== "string" || !SCHEMES[transport].test(url)) return [];
      const usable = Array.isArray(hashes) ? hashes.filter((hash) => typeof hash?.value === "string") : [];
      return [{ transport, address, url, ...(usable.length > 0 && { certificateHashes: usable }) }];
    });
  });
}

/** The transports at the usual places of an address, for when nothing more is known. */
export function usualNode(address: string, tenant: string): Node {
  const base = `${address}/v1/${tenant}`;
  const node: Endpoint[] = [
    { transport: "websocket", address, url: `${base.replace(/^http/, "ws")}/ws` },
    { transport: "sse", address, url: `${base}/sse` },
  ];
  // By default UDP has the port of TCP; without TLS there is a certificate that only `/route` tells of.
  if (address.startsWith("https:")) node.unshift({ transport: "webtransport", address, url: `${base}/wt` });
  return node;
}
