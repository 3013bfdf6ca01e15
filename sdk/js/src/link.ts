import { FIRST_MS, LASTED_MS, whatNext, type End } from "./backoff.js";
import type { Connection, ConnectionEnd } from "./connection.js";
import type { Dialer, Dialled } from "./dialer.js";
import type { Environment, Wake } from "./environment.js";
import { asError, TidegateError } from "./errors.js";
import type { ConnectFrame, ConnectedFrame, DrainFrame } from "./frames.js";
import type { TokenSource } from "./token.js";

/** How a connection ended, and what happens next. */
export interface Disconnected {
  /** The close code, where there was one. */
  readonly code: number | undefined;
  readonly reason: string;
  /** Milliseconds until the next attempt; undefined where there is none. */
  readonly retryInMs: number | undefined;
}

/** What a link tells its owner. */
export interface LinkEvents {
  /** What to say in `connect`. */
  hello(token: string | undefined): ConnectFrame;
  connecting(): void;
  /** A connection is there and is the one to use; an older one, if any, is not any more. */
  connected(connection: Connection, frame: ConnectedFrame): void;
  /** The connection in use ended. */
  lost(connection: Connection, end: ConnectionEnd, livedMs: number): void;
  /** An attempt failed or a connection ended, and this is what happens now. */
  waiting(disconnected: Disconnected): void;
  report(error: TidegateError): void;
  /** It is over, for good. */
  stopped(error: TidegateError): void;
}

/** The close codes after which another token may help. */
const TOKEN_CODES = [4002, 4007];

/** Another connection is to be opened: after so many milliseconds, to this address first. */
interface Renewal {
  readonly ms: number;
  readonly url: string | undefined;
}

/** Keeps one connection: opens it, and opens the next when it ended, drains or is to be renewed. */
export class Link {
  #current: Connection | undefined;
  #isStopped = false;
  /** Attempts since a connection last lasted. */
  #attempt = 0;
  #hasAskedAgain = false;
  #wake: (() => void) | undefined;
  #renew: ((renewal: Renewal) => void) | undefined;
  #isAfresh = false;
  #since = 0;

  constructor(
    private readonly env: Environment,
    private readonly dialer: Dialer,
    private readonly tokens: TokenSource,
    private readonly events: LinkEvents,
  ) {}

  /** Runs until it is stopped. Never rejects. */
  async run(): Promise<void> {
    let url: string | undefined;
    while (!this.#isStopped) {
      if (!this.#current) this.events.connecting();
      const dialled = await this.#dial(url);
      if (this.#isStopped) return;
      url = undefined;
      let end: End;
      if ("connection" in dialled) {
        const next = await this.#use(dialled);
        if (this.#isStopped) return;
        if ("ms" in next) {
          url = next.url;
          const said = await this.#drained(dialled.connection, next.ms);
          if (this.#isStopped) return;
          if (!said) continue;
          end = said;
        } else {
          end = next;
        }
      } else {
        end = dialled;
      }
      url = end.url;
      if (!(await this.#recover(end))) return;
    }
  }

  /** Ends it. `goodbye` ends the session too. */
  stop(goodbye: boolean): void {
    this.#isStopped = true;
    this.dialer.cancel();
    this.#current?.close(goodbye);
    this.#current = undefined;
    this.tokens.stop();
    this.#wake?.();
  }

  /** The page came back, or the network may be another one. */
  woke(wake: Wake): void {
    if (wake === "leaving") return;
    if (wake === "network") this.dialer.routes.forget();
    this.#current?.probe();
    this.#wake?.();
  }

  /** The server asks its clients to go elsewhere: the next connection is opened after the pause, then this one is let go. */
  drain({ retry_after_ms: ms, url }: DrainFrame): void {
    this.#renew?.({ ms, url });
  }

  /** Opens another connection at once and lets the present one go; `afresh` as another session. */
  renew(afresh: boolean): void {
    this.#isAfresh ||= afresh;
    this.#renew?.({ ms: 0, url: undefined });
  }

  async #dial(url: string | undefined): Promise<Dialled | End> {
    try {
      const token = await this.tokens.current();
      if (this.#isStopped) return { reason: "stopped" };
      return await this.dialer.dial(url, () => this.events.hello(token));
    } catch (thrown) {
      const error = asError(thrown, "token_failed", "connecting failed");
      this.events.report(error);
      return { reason: error.message };
    }
  }

  /** Uses a connection until it ends, or until another is to be opened beside it. */
  async #use({ connection, connected }: Dialled): Promise<ConnectionEnd | Renewal> {
    const older = this.#current;
    this.#current = connection;
    this.#since = this.env.now();
    this.#hasAskedAgain = false;
    const renewed = new Promise<Renewal>((resolve) => (this.#renew = resolve));
    // The session is here now; the old connection has nothing to say any more.
    older?.close(this.#isAfresh);
    this.#isAfresh = false;
    this.events.connected(connection, connected);
    const ended = connection.ended.then((end) => {
      if (this.#current === connection) {
        this.#current = undefined;
        this.events.lost(connection, end, this.env.now() - this.#since);
      }
      return end;
    });
    return Promise.race([ended, renewed]);
  }

  /** Waits until the next connection may be opened; the end of the present one, where it says to stop. */
  async #drained(connection: Connection, ms: number): Promise<End | undefined> {
    this.#settleAttempts();
    const due = this.env.now() + ms;
    const pause = this.#pause(ms, ms);
    const end = await Promise.race([pause, connection.ended]);
    if (end && whatNext(end, 0, 0) === "stop") return end;
    if (end) this.#tell(end, Math.max(0, due - this.env.now()));
    await pause;
    return undefined;
  }

  /** A connection that lasted makes the next pauses short again. */
  #settleAttempts(): void {
    if (this.#since > 0 && this.env.now() - this.#since >= LASTED_MS) this.#attempt = 0;
    this.#since = 0;
  }

  /** Decides what follows an end, and waits for it. False: nothing follows. */
  async #recover(end: End): Promise<boolean> {
    const code = end.code ?? 0;
    this.#settleAttempts();
    if (TOKEN_CODES.includes(code) && this.tokens.isRenewable && !this.#hasAskedAgain) {
      this.#hasAskedAgain = true;
      this.tokens.refused();
      // A token that is taken and expires at once must not make a storm.
      const ms = this.#attempt++ === 0 ? 0 : FIRST_MS * this.#attempt;
      this.#tell(end, ms);
      await this.#pause(ms);
      return !this.#isStopped;
    }
    const next = whatNext(end, this.#attempt++, this.env.random());
    const retryInMs = next === "stop" ? undefined : next;
    this.#tell(end, retryInMs);
    if (retryInMs === undefined) {
      this.stop(false);
      const why = `the server ended the connection with ${end.code} and said not to come back: ${end.reason}`;
      this.events.stopped(new TidegateError("refused", why, { closeCode: end.code }));
      return false;
    }
    await this.#pause(retryInMs, end.retryAfterMs);
    return !this.#isStopped;
  }

  /** An attempt to replace a connection that is still there is nobody's concern. */
  #tell({ code, reason }: End, retryInMs: number | undefined): void {
    if (!this.#current || retryInMs === undefined) this.events.waiting({ code, reason, retryInMs });
  }

  /** Waits so many milliseconds. A wake-up makes it shorter, but not shorter than the server asked, nor than a second. */
  #pause(ms: number, asked = 0): Promise<void> {
    return new Promise((resolve) => {
      const earliest = this.env.now() + Math.max(FIRST_MS, asked);
      const done = () => {
        this.#wake = undefined;
        resolve();
      };
      let timer = this.env.setTimeout(done, ms);
      this.#wake = () => {
        this.env.clearTimeout(timer);
        const left = Math.min(ms, earliest - this.env.now());
        if (this.#isStopped || left <= 0) return done();
        timer = this.env.setTimeout(done, left);
      };
    });
  }
}
