import { randomName, type Environment } from "./environment.js";

/** How long another tab is given to say that the name is its own, or to let go of it, in milliseconds. */
const ASK_MS = 300;

/** Names that clients of this page hold, so that two of them do not share one. */
const held = new Set<string>();

/** A device's name, held by this tab alone until it is released. */
export interface Device {
  readonly name: string | undefined;
  release(): void;
}

/**
 * The device of this tab: a name in sessionStorage, so that a refresh keeps it. A tab that was duplicated
 * starts with a copy of it; whoever finds the name in use takes another. Where there is no sessionStorage
 * (Node, workers) there is no device.
 */
export async function tabDevice(env: Environment, tenant: string): Promise<Device> {
  if (!env.sessionStorage) return { name: undefined, release: () => undefined };
  let slot = 0;
  while (held.has(`${tenant} ${slot}`)) slot++;
  const place = `${tenant} ${slot}`;
  held.add(place);
  const key = `tidegate:device:${tenant}${slot ? `:${slot}` : ""}`;
  let name = read(env, key);
  let letGo = name ? await hold(env, name) : undefined;
  while (!name || !letGo) {
    name = randomName();
    letGo = await hold(env, name);
  }
  write(env, key, name);
  const own = letGo;
  return {
    name,
    release() {
      held.delete(place);
      own();
    },
  };
}

function read(env: Environment, key: string): string | undefined {
  try {
    return env.sessionStorage!.getItem(key) ?? undefined;
  } catch {
    return undefined;
  }
}

function write(env: Environment, key: string, name: string): void {
  try {
    env.sessionStorage!.setItem(key, name);
  } catch {
    // The name is good until the page is refreshed.
  }
}

/** Holds a name among all tabs of this origin; undefined where another one holds it. */
function hold(env: Environment, name: string): Promise<(() => void) | undefined> {
  const resource = `tidegate:device:${name}`;
  if (env.locks) return holdLock(env, env.locks, resource);
  if (env.BroadcastChannel) return holdByAsking(env, new env.BroadcastChannel(resource));
  return Promise.resolve(() => undefined);
}

/** By Web Locks, which also work while the other tab sleeps. A page that is being left lets go within moments. */
function holdLock(env: Environment, locks: LockManager, resource: string): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    const abort = new AbortController();
    const timer = env.setTimeout(() => abort.abort(), ASK_MS);
    const held = locks.request(resource, { signal: abort.signal }, () => {
      env.clearTimeout(timer);
      return new Promise<void>((letGo) => resolve(letGo));
    });
    held.catch(() => resolve(undefined));
  });
}

/** By asking the other tabs, where the page has no Web Locks (they need a secure context). */
function holdByAsking(env: Environment, channel: BroadcastChannel): Promise<(() => void) | undefined> {
  return new Promise((resolve) => {
    const me = randomName();
    channel.onmessage = ({ data }: MessageEvent<{ ask?: string; own?: string }>) => {
      if (data.own !== me) return;
      channel.close();
      resolve(undefined);
    };
    channel.postMessage({ ask: me });
    env.setTimeout(() => {
      channel.onmessage = ({ data }: MessageEvent<{ ask?: string }>) => {
        if (data.ask) channel.postMessage({ own: data.ask });
      };
      resolve(() => channel.close());
    }, ASK_MS);
  });
}
