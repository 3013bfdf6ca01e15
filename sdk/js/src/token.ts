import type { Environment } from "./environment.js";
import { asError, TidegateError } from "./errors.js";

/** Why a token is asked for: there is none yet, it expires soon, or the server refused the last one. */
export type TokenReason = "first" | "expiring" | "refused";

/** Makes a token; may take its time. */
export type GetToken = (reason: TokenReason) => string | Promise<string>;

/** A token is replaced so long before it expires, or a tenth of its remaining life before, in milliseconds. */
const LEAD_MS = 60_000;
/** The longest that a timer runs, in milliseconds. */
const LONGEST_TIMER_MS = 24 * 3_600_000;

/** The token: asked for when there is none, shortly before it expires, and once more when it is refused. */
export class TokenSource {
  #token: string | undefined;
  #askAt = Infinity;
  #reason: TokenReason = "first";
  #timer: unknown;

  constructor(private readonly env: Environment, token: string | undefined, private readonly getToken: GetToken | undefined) {
    if (token !== undefined) this.#keep(token);
  }

  /** Whether asking for another one can help. */
  get isRenewable(): boolean {
    return this.getToken !== undefined;
  }

  /**
   * The token to connect with; undefined where the application has none and connects anonymously.
   *
   * @throws TidegateError `token_failed` where `getToken` fails
   */
  async current(): Promise<string | undefined> {
    const isGood = this.#token !== undefined && this.env.now() < this.#askAt;
    if (!this.getToken || isGood) return this.#token;
    const reason = this.#token === undefined ? this.#reason : "expiring";
    try {
      const token: unknown = await this.getToken(reason);
      if (typeof token !== "string" || token === "") {
        throw new TidegateError("token_failed", "getToken gave no token: it must give a string");
      }
      this.#keep(token);
      return token;
    } catch (thrown) {
      throw asError(thrown, "token_failed", "getToken failed");
    }
  }

  /** The application has another one. */
  replace(token: string): void {
    this.#keep(token);
  }

  /** The server refused it, or it expired: the next one is asked for. */
  refused(): void {
    if (!this.getToken) return;
    this.#token = undefined;
    this.#reason = "refused";
  }

  /** Calls `due` when it is time for a new token, once, unless `stop` is called before. */
  watch(due: () => void): void {
    this.stop();
    if (!this.getToken || this.#askAt === Infinity) return;
    const wait = Math.max(1_000, this.#askAt - this.env.now());
    const isLast = wait <= LONGEST_TIMER_MS;
    this.#timer = this.env.setTimeout(() => (isLast ? due() : this.watch(due)), Math.min(wait, LONGEST_TIMER_MS));
  }

  stop(): void {
    this.env.clearTimeout(this.#timer);
  }

  #keep(token: string): void {
    this.#token = token;
    const expires = expiryOf(token);
    const left = (expires ?? 0) - this.env.now();
    // One that seems to have expired when it came shows that this clock is wrong: the server's counts.
    this.#askAt = expires === undefined || left <= 0 ? Infinity : expires - Math.min(LEAD_MS, left / 10);
  }
}

/**
 * When a JWT expires (RFC 7519 section 4.1.4), in milliseconds since 1970. It is not verified: that is the
 * server's part. Undefined for what is no JWT or never expires.
 */
export function expiryOf(token: string): number | undefined {
  try {
    const claims = token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(claims)) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}
