// All that the client takes from the world around it, in one place, so that tests can replace it.

/** The part of the WebSocket interface that is used. The `ws` package's class fits it, too. */
export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** The part of the WebTransport interface that is used. */
export interface WebTransportLike {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<{ closeCode?: number; reason?: string }>;
  readonly datagrams: { readonly readable: ReadableStream<Uint8Array> };
  createBidirectionalStream(): Promise<{ readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> }>;
  close(info?: { closeCode?: number; reason?: string }): void;
}
export type WebTransportConstructor = new (url: string, options?: Record<string, unknown>) => WebTransportLike;

/** The part of the Storage interface that is used. */
export interface StorageLike {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** What made the client look at its connection: `network` also where the network may be another one. */
export type Wake = "visible" | "network" | "leaving";

export interface Environment {
  now(): number;
  random(): number;
  setTimeout(callback: () => void, ms: number): unknown;
  clearTimeout(timer: any): void;
  readonly fetch: typeof fetch | undefined;
  readonly WebSocket: WebSocketConstructor | undefined;
  readonly WebTransport: WebTransportConstructor | undefined;
  readonly localStorage: StorageLike | undefined;
  readonly sessionStorage: StorageLike | undefined;
  readonly locks: LockManager | undefined;
  readonly BroadcastChannel: typeof BroadcastChannel | undefined;
  /** What can be told of the network this machine is in; equal strings do not promise the same network. */
  network(): string;
  /** Calls back on every wake-up until the function returned is called. */
  onWake(listener: (wake: Wake) => void): () => void;
}

/** What this page, worker or Node process has. */
export function realEnvironment(webSocket?: WebSocketConstructor): Environment {
  const world = globalThis as unknown as Record<string, any>;
  const link = world["navigator"]?.connection as (EventTarget & { type?: string; effectiveType?: string }) | undefined;
  const network = () => link?.type ?? link?.effectiveType ?? "any";
  let last = network();
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (timer) => clearTimeout(timer),
    fetch: world["fetch"]?.bind(world),
    WebSocket: webSocket ?? world["WebSocket"],
    WebTransport: world["WebTransport"],
    localStorage: storage("localStorage"),
    sessionStorage: storage("sessionStorage"),
    locks: world["navigator"]?.locks,
    // A channel that listens would keep a Node process alive; there are no tabs there.
    BroadcastChannel: world["document"] ? world["BroadcastChannel"] : undefined,
    network,
    onWake(listener) {
      const offs = [
        listen(world["window"], "online", () => listener("network")),
        // It also changes with every measurement of the speed.
        listen(link, "change", () => last !== (last = network()) && listener("network")),
        listen(world["window"], "pagehide", () => listener("leaving")),
        listen(world["document"], "visibilitychange", () => {
          listener(world["document"].visibilityState === "visible" ? "visible" : "leaving");
        }),
      ];
      return () => offs.forEach((off) => off());
    },
  };
}

function listen(target: EventTarget | undefined, name: string, handler: () => void): () => void {
  target?.addEventListener?.(name, handler);
  return () => target?.removeEventListener?.(name, handler);
}

/** A storage that the page may use: looking at it alone throws where the user has forbidden it. */
function storage(name: "localStorage" | "sessionStorage"): StorageLike | undefined {
  // Node has globals of these names that only warn.
  if (!("document" in globalThis)) return undefined;
  try {
    return (globalThis as unknown as Record<string, StorageLike>)[name];
  } catch {
    return undefined;
  }
}

/** Reads JSON from a storage; undefined where there is none. */
export function readJson<T>(storage: StorageLike | undefined, key: string): T | undefined {
  try {
    const text = storage?.getItem(key);
    return text ? (JSON.parse(text) as T) : undefined;
  } catch {
    return undefined;
  }
}

/** Writes JSON to a storage. What a full or forbidden storage does not take is forgotten. */
export function writeJson(storage: StorageLike | undefined, key: string, value: unknown): void {
  try {
    storage?.setItem(key, JSON.stringify(value));
  } catch {
    // It is a memory aid; the client works without it.
  }
}

/** A random name of 128 bits, in hexadecimal digits. */
export function randomName(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
