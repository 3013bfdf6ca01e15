import type { Environment } from "./environment.js";
/** Why a token is asked for: there is none yet, it expires soon, or the server refused the last one. */
export type TokenReason = "first" | "expiring" | "refused";
/** Makes a token; may take its time. */
export type GetToken = (reason: TokenReason) => string | Promise<string>;
/** The token: asked for when there is none, shortly before it expires, and once more when it is refused. */
export declare class TokenSource {
    #private;
    private readonly env;
    private readonly getToken;
    constructor(env: Environment, token: string | undefined, getToken: GetToken | undefined);
    /** Whether asking for another one can help. */
    get isRenewable(): boolean;
    /**
     * The token to connect with; undefined where the application has none and connects anonymously.
     *
     * @throws TidegateError `token_failed` where `getToken` fails
     */
    current(): Promise<string | undefined>;
    /** The application has another one. */
    replace(token: string): void;
    /** The server refused it, or it expired: the next one is asked for. */
    refused(): void;
    /** Calls `due` when it is time for a new token, once, unless `stop` is called before. */
    watch(due: () => void): void;
    stop(): void;
}
/**
 * When a JWT expires (RFC 7519 section 4.1.4), in milliseconds since 1970. It is not verified: that is the
 * server's part. Undefined for what is no JWT or never expires.
 */
export declare function expiryOf(token: string): number | undefined;
