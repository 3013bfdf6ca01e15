import type { Environment } from "./environment.js";

/** How long an answer to `ping` is waited for, in milliseconds. */
const ANSWER_MS = 10_000;

/**
 * Finds out whether the other end lives: sends `ping` when nothing was heard for a while, and takes the
 * connection for dead when nothing is heard after that. Anything that comes is an answer.
 */
export class Heartbeat {
  #heard: number;
  /** When the answer to a ping is due. */
  #due: number | undefined;
  #timer: unknown;

  /** @param quietMs how long silence is not looked into, in milliseconds */
  constructor(
    private readonly env: Environment,
    private readonly quietMs: number,
    private readonly ping: () => void,
    private readonly dead: () => void,
  ) {
    this.#heard = env.now();
    this.#arm();
  }

  /** Something came. The timer stays as it is: it looks at this when it fires. */
  heard(): void {
    this.#heard = this.env.now();
    this.#due = undefined;
  }

  /** How long nothing was heard, in milliseconds. */
  get silence(): number {
    return this.env.now() - this.#heard;
  }

  /** Asks now, and takes the connection for dead when nothing comes within `withinMs` milliseconds. */
  probe(withinMs: number): void {
    const due = this.env.now() + withinMs;
    if (this.#due !== undefined && this.#due <= due) return;
    const isAsked = this.#due !== undefined;
    this.#due = due;
    this.#arm();
    if (!isAsked) this.ping();
  }

  stop(): void {
    this.env.clearTimeout(this.#timer);
  }

  #arm(): void {
    this.stop();
    const next = this.#due ?? this.#heard + this.quietMs;
    this.#timer = this.env.setTimeout(() => this.#look(), Math.max(0, next - this.env.now()));
  }

  #look(): void {
    const now = this.env.now();
    if (this.#due !== undefined && now >= this.#due) return this.dead();
    if (this.#due === undefined && now - this.#heard >= this.quietMs) return this.probe(ANSWER_MS);
    this.#arm();
  }
}
