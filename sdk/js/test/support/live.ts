// A real node, as the tests of test/node and test/browser start it.

import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import WebSocket from "ws";
import { Tidegate, type TidegateOptions, type TransportName } from "../../src/tidegate.js";
import type { WebSocketConstructor } from "../../src/environment.js";

export interface Live {
  /** The base address. */
  readonly url: string;
  /** Stops it, and resolves when it is gone. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts a node with the tenant demo on free ports, or on the port given. */
export async function startNode(port = 0, more: string[] = []): Promise<Live> {
  const binary = process.env["TIDEGATE_NODE_BIN"];
  if (!binary) throw new Error("TIDEGATE_NODE_BIN is not set: it names the binary `tidegate`");
  const listen = ["--listen", `127.0.0.1:${port}`, "--admin-listen", "127.0.0.1:0", "--resp-listen", "127.0.0.1:0"];
  const child = spawn(binary, ["serve", ...listen, "--demo", ...more], { stdio: ["ignore", "pipe", "pipe"] });
  const log: string[] = [];
  child.stderr.on("data", (piece: Buffer) => log.push(piece.toString()));
  const http = await ready(child, log);
  return {
    url: `http://${http}`,
    stop: (signal = "SIGTERM") => {
      const gone = new Promise<void>((resolve) => (child.exitCode !== null || child.signalCode !== null ? resolve() : child.once("exit", () => resolve())));
      child.kill(signal);
      return gone;
    },
  };
}

function ready(child: ChildProcess, log: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("exit", (code) => reject(new Error(`the node ended with ${code}:\n${log.join("")}`)));
    child.stdout!.on("data", (piece: Buffer) => {
      text += piece.toString();
      const found = /^ready .*?http=(?:https?:\/\/)?(\S+)/m.exec(text);
      if (found) resolve(found[1]!);
    });
  });
}

/** A client of the node over one transport. */
export function clientOf(live: Live, transport: TransportName, options: Partial<TidegateOptions> = {}): Tidegate {
  const webSocket = WebSocket as unknown as WebSocketConstructor;
  return new Tidegate({ url: live.url, tenant: "demo", transports: [transport], webSocket, ...options });
}

/** Publishes as a backend does. */
export async function publish(live: Live, channel: string, data: unknown): Promise<string> {
  const response = await fetch(`${live.url}/v1/demo/publish`, {
    method: "POST",
    headers: { authorization: "Bearer demo-key", "content-type": "application/json" },
    body: JSON.stringify({ channel, data }),
  });
  const answer = (await response.json()) as { results: { offset?: string }[] };
  const offset = answer.results[0]?.offset;
  if (!offset) throw new Error(`publishing was answered with ${response.status}: ${JSON.stringify(answer)}`);
  return offset;
}

/** Waits for something that comes by itself; says what did not come. */
export async function until(what: string, check: () => boolean, withinMs = 20_000): Promise<void> {
  const end = Date.now() + withinMs;
  while (!check()) {
    if (Date.now() > end) throw new Error(`not seen within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A token of the tenant demo for a user. */
export function tokenOf(user: string, ttl = "1h"): string {
  const words = ["token", "--tenant", "demo", "--user", user, "--ttl", ttl, "--demo"];
  return execFileSync(process.env["TIDEGATE_NODE_BIN"]!, words, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim().split("\n").at(-1)!;
}
