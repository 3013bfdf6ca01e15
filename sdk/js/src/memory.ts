import { readJson, writeJson, type Environment } from "./environment.js";
import type { TransportName } from "./transports/transport.js";

/** After its first failure a transport is left out so long, in milliseconds; it doubles with each further one. */
const FIRST_REST_MS = 10 * 60_000;
/** The longest a transport is left out, in milliseconds. */
const LONGEST_REST_MS = 24 * 3_600_000;
/** What is not used for so long is forgotten, in milliseconds. */
const KEPT_MS = 7 * 24 * 3_600_000;
/** Entries that are kept at most; the oldest go first. */
const MOST_ENTRIES = 32;

interface Entry {
  /** When it was last of use, in milliseconds since 1970. */
  at: number;
  /** Transports that failed where another worked: how often, and until when they rest. */
  failed?: Partial<Record<TransportName, { times: number; until: number }>>;
  /** The transport that worked last. */
  worked?: TransportName;
  /** The address that worked last in this network. */
  address?: string;
  /** The interval between heartbeats to wish for, in milliseconds. */
  pingMs?: number;
}

/**
 * What worked in which network, kept in localStorage where there is one. A network is what
 * `navigator.connection` tells of it; an entry is about one address in one network, or about the network.
 */
export class NetworkMemory {
  #entries: Record<string, Entry>;
  #key: string;

  constructor(private readonly env: Environment, tenant: string) {
    this.#key = `tidegate:networks:${tenant}`;
    const stored = readJson<Record<string, Entry>>(env.localStorage, this.#key);
    this.#entries = typeof stored === "object" && stored !== null ? stored : {};
  }

  /** Whether the transport failed here lately, so that others come first. */
  isResting(address: string, transport: TransportName): boolean {
    return (this.#find(address)?.failed?.[transport]?.until ?? 0) > this.env.now();
  }

  /** The transport that worked last at this address. */
  worked(address: string): TransportName | undefined {
    return this.#find(address)?.worked;
  }

  /** A transport worked after others had failed at the same address: those rest for a while. */
  succeeded(address: string, transport: TransportName, failed: readonly TransportName[]): void {
    this.#change(address, (entry) => {
      const kept = (entry.failed ??= {});
      delete kept[transport];
      for (const name of failed) {
        const times = (kept[name]?.times ?? 0) + 1;
        const rest = Math.min(LONGEST_REST_MS, FIRST_REST_MS * 2 ** (times - 1));
        kept[name] = { times, until: this.env.now() + rest };
      }
      entry.worked = transport;
    });
    this.#change("", (entry) => (entry.address = address));
  }

  /** The address that worked last in this network. */
  get address(): string | undefined {
    return this.#find("")?.address;
  }

  /** The interval between heartbeats that suits this network, in milliseconds. */
  get pingMs(): number | undefined {
    return this.#find("")?.pingMs;
  }

  set pingMs(ms: number) {
    this.#change("", (entry) => (entry.pingMs = ms));
  }

  #find(address: string): Entry | undefined {
    const entry = this.#entries[this.#name(address)];
    return entry && entry.at + KEPT_MS > this.env.now() ? entry : undefined;
  }

  #change(address: string, change: (entry: Entry) => void): void {
    const entry = this.#find(address) ?? { at: 0 };
    change(entry);
    entry.at = this.env.now();
    this.#entries[this.#name(address)] = entry;
    const newest = Object.entries(this.#entries).sort(([, a], [, b]) => b.at - a.at);
    this.#entries = Object.fromEntries(newest.slice(0, MOST_ENTRIES));
    writeJson(this.env.localStorage, this.#key, this.#entries);
  }

  #name(address: string): string {
    return `${this.env.network()} ${address}`;
  }
}
