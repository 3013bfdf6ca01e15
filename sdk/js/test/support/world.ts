// A world in which time stands still until a test moves it, with sockets that a test answers.

import type { Environment, StorageLike, Wake, WebSocketLike, WebTransportConstructor } from "../../src/environment.js";
import type { ClientFrame, ServerFrame } from "../../src/frames.js";

/** Lets everything that is only waiting for promises go on. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await new Promise((resolve) => setImmediate(resolve));
}

interface Timer {
  at: number;
  callback: () => void;
}

export class Clock {
  now = 1_800_000_000_000;
  #timers = new Set<Timer>();

  set(callback: () => void, ms: number): Timer {
    const timer = { at: this.now + ms, callback };
    this.#timers.add(timer);
    return timer;
  }

  clear(timer: Timer): void {
    this.#timers.delete(timer);
  }

  /** Moves time, timer by timer. */
  async advance(ms: number): Promise<void> {
    const until = this.now + ms;
    await settle();
    for (;;) {
      const next = [...this.#timers].filter((timer) => timer.at <= until).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.#timers.delete(next);
      this.now = Math.max(this.now, next.at);
      next.callback();
      await settle();
    }
    this.now = until;
  }

  get pending(): number {
    return this.#timers.size;
  }
}

export class Storage implements StorageLike {
  entries = new Map<string, string>();

  getItem(key: string): string | null {
    return this.entries.get(key) ?? null;
  }

  setItem(key: string, value: string): void {
    this.entries.set(key, value);
  }

  /** What a tab gets that is duplicated from this one. */
  copy(): Storage {
    const copy = new Storage();
    copy.entries = new Map(this.entries);
    return copy;
  }
}

/** A WebSocket whose other end is the test. */
export class Socket implements WebSocketLike {
  binaryType = "blob";
  onopen: ((event: any) => void) | null = null;
  onmessage: ((event: any) => void) | null = null;
  onerror: ((event: any) => void) | null = null;
  onclose: ((event: any) => void) | null = null;
  readonly sent: ClientFrame[] = [];
  /** The code with which the client closed. */
  closedWith: number | undefined;
  /** Called with each frame of the client. */
  onFrame: (frame: ClientFrame) => void = () => undefined;

  constructor(readonly url: string, readonly protocols: string[]) {}

  send(data: string): void {
    const frame = JSON.parse(data) as ClientFrame;
    this.sent.push(frame);
    this.onFrame(frame);
  }

  close(code?: number): void {
    this.closedWith ??= code ?? 1005;
  }

  open(): void {
    this.onopen?.({});
  }

  says(frame: ServerFrame): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  /** Ends, as seen by the client. */
  breaks(code = 1006, reason = ""): void {
    this.onerror?.({});
    this.onclose?.({ code, reason });
  }

  of<Type extends ClientFrame["type"]>(type: Type): Extract<ClientFrame, { type: Type }>[] {
    return this.sent.filter((frame) => frame.type === type) as Extract<ClientFrame, { type: Type }>[];
  }
}

export class World {
  clock = new Clock();
  sockets: Socket[] = [];
  local = new Storage();
  session: Storage | undefined = new Storage();
  network = "wifi";
  randomness = 0.5;
  /** Called with each socket that is opened. */
  onSocket: (socket: Socket) => void = () => undefined;
  fetch: typeof fetch | undefined;
  WebTransport: WebTransportConstructor | undefined;
  locks: LockManager | undefined;
  BroadcastChannel: typeof BroadcastChannel | undefined;
  #wakes = new Set<(wake: Wake) => void>();

  environment(): Environment {
    const world = this;
    class OpenedSocket extends Socket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        world.sockets.push(this);
        queueMicrotask(() => world.onSocket(this));
      }
    }
    return {
      now: () => this.clock.now,
      random: () => this.randomness,
      setTimeout: (callback, ms) => this.clock.set(callback, ms),
      clearTimeout: (timer) => this.clock.clear(timer),
      fetch: this.fetch,
      WebSocket: OpenedSocket,
      WebTransport: this.WebTransport,
      localStorage: this.local,
      sessionStorage: this.session,
      locks: this.locks,
      BroadcastChannel: this.BroadcastChannel,
      network: () => this.network,
      onWake: (listener) => {
        this.#wakes.add(listener);
        return () => void this.#wakes.delete(listener);
      },
    };
  }

  wakes(wake: Wake): void {
    for (const listener of this.#wakes) listener(wake);
  }

  get listeners(): number {
    return this.#wakes.size;
  }

  /** The newest socket. */
  get socket(): Socket {
    const socket = this.sockets.at(-1);
    if (!socket) throw new Error("no socket was opened");
    return socket;
  }
}
