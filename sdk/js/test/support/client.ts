import { Tidegate } from "../../src/client.js";
import type { TidegateError } from "../../src/errors.js";
import type { Message } from "../../src/message.js";
import type { TidegateOptions } from "../../src/options.js";
import type { Subscription } from "../../src/subscription.js";
import { Node } from "./node.js";
import { settle, World } from "./world.js";

/** A client of the world, and what it told. */
export interface Watched {
  client: Tidegate;
  errors: TidegateError[];
  states: string[];
  pauses: (number | undefined)[];
}

export function watch(world: World, options: Partial<TidegateOptions> = {}): Watched {
  const environment = world.environment();
  const client = new Tidegate({ url: "http://a.test", tenant: "demo", transports: ["websocket"], ...options, environment });
  const watched: Watched = { client, errors: [], states: [], pauses: [] };
  client.on("error", (error) => watched.errors.push(error));
  client.on("state", (state) => watched.states.push(state));
  client.on("disconnected", ({ retryInMs }) => watched.pauses.push(retryInMs));
  return watched;
}

/** A client that is connected. */
export async function connected(world: World, options: Partial<TidegateOptions> = {}): Promise<Watched> {
  const watched = watch(world, options);
  const opened = watched.client.connect();
  await settle();
  await opened;
  return watched;
}

/** Collects the data of a subscription's messages. */
export function collect(subscription: Subscription): unknown[] {
  const got: unknown[] = [];
  subscription.on("message", (message: Message) => void got.push(message.data));
  return got;
}

/** A connected client, with its world and node. */
export async function start(options: Partial<TidegateOptions> = {}): Promise<Watched & { world: World; node: Node }> {
  const world = new World();
  const node = new Node(world);
  const watched = await connected(world, { device: false, ...options });
  return { world, node, ...watched };
}

/** Breaks the connection and waits for the next one. */
export async function reconnect(world: World): Promise<void> {
  world.socket.breaks();
  await world.clock.advance(1_000);
}
