import { readJson, writeJson, type Environment } from "./environment.js";
import type { Position } from "./frames.js";
import { isOffset } from "./offsets.js";

/** Positions that are kept, at most; those that moved longest ago go first. */
const MOST_POSITIONS = 128;
/** How often positions are written at most, in milliseconds. */
const WRITE_EVERY_MS = 1_000;

/** Positions of channels that outlive a refresh of the page: in sessionStorage, which each tab has of its own. */
export class PositionStore {
  #positions: Map<string, Position>;
  #key: string;
  #timer: unknown;

  constructor(private readonly env: Environment, tenant: string) {
    this.#key = `tidegate:positions:${tenant}`;
    const stored = readJson<Record<string, Position>>(env.sessionStorage, this.#key);
    const usable = Object.entries(stored ?? {}).filter(([, position]) => isOffset(position?.offset));
    this.#positions = new Map(usable);
  }

  get(channel: string): Position | undefined {
    return this.#positions.get(channel);
  }

  set(channel: string, position: Position): void {
    this.#positions.delete(channel);
    this.#positions.set(channel, position);
    if (this.#positions.size > MOST_POSITIONS) this.#positions.delete(this.#positions.keys().next().value!);
    this.#timer ??= this.env.setTimeout(() => this.flush(), WRITE_EVERY_MS);
  }

  /** The application is through with the channel. */
  delete(channel: string): void {
    if (this.#positions.delete(channel)) this.flush();
  }

  /** Writes now: the page may go away. */
  flush(): void {
    this.env.clearTimeout(this.#timer);
    this.#timer = undefined;
    writeJson(this.env.sessionStorage, this.#key, Object.fromEntries(this.#positions));
  }
}
