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
    readonly closed: Promise<{
        closeCode?: number;
        reason?: string;
    }>;
    readonly datagrams: {
        readonly readable: ReadableStream<Uint8Array>;
    };
    createBidirectionalStream(): Promise<{
        readable: ReadableStream<Uint8Array>;
        writable: WritableStream<Uint8Array>;
    }>;
    close(info?: {
        closeCode?: number;
        reason?: string;
    }): void;
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
export declare function realEnvironment(webSocket?: WebSocketConstructor): Environment;
/** Reads JSON from a storage; undefined where there is none. */
export declare function readJson<T>(storage: StorageLike | undefined, key: string): T | undefined;
/** Writes JSON to a storage. What a full or forbidden storage does not take is forgotten. */
export declare function writeJson(storage: StorageLike | undefined, key: string, value: unknown): void;
/** A random name of 128 bits, in hexadecimal digits. */
export declare function randomName(): string;
