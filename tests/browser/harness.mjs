// What the checks of the live-room page stand on: nodes, a browser, and waiting for what a page shows.

import { execFileSync, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
// Never --disable-quic: WebTransport is among what is checked.
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
/** For work on the page: the browser sees the page and the client of this clone, not those compiled into the node. */
const isTree = process.env.TIDEGATE_PAGE === "tree";
/** The key of the tenant `demo`, which everybody knows. */
const API_KEY = "demo-key";
/** How long something is waited for, in milliseconds, where a check does not say more. */
const PATIENCE_MS = 20_000;

/**
 * The beginning of a configuration for checks of redelivery: a message is sent again only after its client answered
 * a heartbeat, so those come every second.
 */
export const HURRIED = "[limits]\nping_min_ms = 1000\nping_ms = 1000\n";

export class Failed extends Error {}

export function equal(what, got, wanted) {
  if (got !== wanted) throw new Failed(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
}

export function holds(what, is) {
  if (!is) throw new Failed(`${what}: it is not so`);
}

/** Waits until `check` gives something true, and gives that. */
export async function until(what, check, timeoutMs = PATIENCE_MS) {
  const end = Date.now() + timeoutMs;
  let last;
  while (Date.now() < end) {
    last = await check();
    if (last) return last;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Failed(`not so within ${timeoutMs} ms: ${what} (last: ${JSON.stringify(last)})`);
}

// ---- Nodes ----

/** A node with the tenant `demo`, on free ports. */
export class Node {
  #process;
  #log = [];

  /**
   * @param binary  the `tidegate` to run
   * @param flags   more flags of `serve`
   * @param config  the text of a configuration file
   */
  static async start(binary, { flags = [], config = "" } = {}) {
    const node = new Node();
    node.folder = await mkdtemp(join(tmpdir(), "tidegate-browser-"));
    await writeFile(join(node.folder, "tidegate.toml"), config);
    const ports = ["--listen", "--admin-listen", "--resp-listen"].flatMap((flag) => (flags.includes(flag) ? [] : [flag, "127.0.0.1:0"]));
    const line = ["serve", "--demo", "--config", join(node.folder, "tidegate.toml"), ...ports, ...flags];
    const child = (node.#process = spawn(binary, line, { stdio: ["ignore", "pipe", "pipe"] }));
    child.stderr.setEncoding("utf8").on("data", (text) => node.#log.push(...text.split("\n").filter(Boolean)) && node.#log.splice(0, node.#log.length - 200));
    const ready = await new Promise((resolve, reject) => {
      let text = "";
      child.stdout.setEncoding("utf8").on("data", (more) => {
        text += more;
        const found = /^ready (.*)\n/m.exec(text);
        if (found) resolve(found[1]);
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Failed(`the node ended with ${code} before it was ready:\n${node.log}`)));
    });
    const at = Object.fromEntries(ready.split(" ").map((part) => part.split("=")));
    for (const [name, value] of Object.entries(at)) at[name] = value.replace(/^\w+:\/\//, "").replace(/\/$/, "");
    Object.assign(node, { at, base: `http://${at.http}`, binary });
    return node;
  }

  /** The last lines of its log. */
  get log() {
    return this.#log.slice(-40).join("\n");
  }

  /** Publishes over HTTP and gives the offset. */
  async publish(data, { channel = "room:1", ...extra } = {}) {
    const answer = await fetch(`${this.base}/v1/demo/publish`, {
      method: "POST",
      headers: { authorization: `Bearer ${API_KEY}`, "content-type": "application/json" },
      body: JSON.stringify({ channel, data, ...extra }),
    });
    if (!answer.ok) throw new Failed(`publishing over HTTP answered ${answer.status}: ${await answer.text()}`);
    const [result] = (await answer.json()).results;
    if (!result?.offset) throw new Failed(`publishing over HTTP gave no offset: ${JSON.stringify(result)}`);
    return result.offset;
  }

  async route() {
    return (await fetch(`${this.base}/v1/demo/route`)).json();
  }

  /** The value of one metric, all its labels in `labels` given. */
  async metric(name, labels = {}) {
    const text = await (await fetch(`http://${this.at.admin}/metrics`)).text();
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
    const line = text.split("\n").find((one) => one.startsWith(`${name}{`) && wanted.every((part) => one.includes(part)));
    if (!line) throw new Failed(`/metrics has no ${name} with ${wanted}`);
    return Number(line.split(" ").pop());
  }

  connections(transport) {
    return this.metric("tidegate_connections", { tenant: "demo", transport });
  }

  /** A token of the tenant `demo`. */
  token(user) {
    return execFileSync(this.binary, ["token", "--demo", "--user", user, "--ttl", "1h"], { encoding: "utf8" }).trim();
  }

  async stop() {
    const child = this.#process;
    if (child.exitCode === null && child.signalCode === null) {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      // Twice, for a drain that is cut short: nobody waits for these clients.
      child.kill("SIGTERM");
      child.kill("SIGINT");
      const late = setTimeout(() => child.kill("SIGKILL"), 5000);
      await ended;
      clearTimeout(late);
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

// ---- The browser ----

export function launch() {
  const folder = process.env.TIDEGATE_NODE_MODULES;
  let playwright;
  try {
    playwright = createRequire(folder ? join(folder, "x.js") : import.meta.url)("playwright-core");
  } catch {
    throw new Failed("playwright-core is not installed: run scripts/install-test-tools.sh, and set TIDEGATE_NODE_MODULES to what it prints");
  }
  // Pages that the harness supplies have no address, which Chromium does not let connect to this machine.
  const more = isTree ? ["--disable-features=LocalNetworkAccessChecks"] : [];
  return playwright.chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, ...more], headless: true });
}

/** A context of its own: storage and tabs that share nothing with other contexts. */
export async function newContext(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  if (isTree) {
    const html = (await readFile(join(ROOT, "examples/live-room/index.html"), "utf8"))
      .replace("{{TENANT}}", "demo").replace("{{XADD}}", "redis-cli XADD tg:demo:ch:room:1 '*' data hello")
      .replace("{{PYTHON}}", 'import redis\nr = redis.Redis()\nr.xadd("tg:demo:ch:room:1", {"data": "hello"})').replace("{{CURL}}", "curl -d '{\"channel\":\"room:1\"}'");
    const script = await readFile(join(ROOT, "sdk/js/dist/tidegate.min.js"), "utf8");
    // With the headers of the node, above all its content security policy.
    const replace = async (route, body) => route.fulfill({ response: await route.fetch(), body });
    await context.route((url) => url.pathname === "/", (route) => replace(route, html));
    await context.route("**/tidegate.js", (route) => replace(route, script));
  }
  return context;
}

/** One tab with the live-room page, and what a check looks at in it. */
export class Room {
  /** Exceptions, errors in the console, and requests to hosts that are none of ours. */
  problems = [];

  /** Opens the page; `address` is what follows the base. `transport` is chosen before it loads. */
  static async open(context, base, address = "", transport = undefined) {
    const room = new Room();
    const page = (room.page = await context.newPage());
    page.on("pageerror", (error) => room.problems.push(`exception: ${error.message}`));
    page.on("console", (line) => line.type() === "error" && room.problems.push(`console: ${line.text()}`));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (/^https?:$/.test(url.protocol) && url.hostname !== new URL(base).hostname) room.problems.push(`asked another host: ${url}`);
    });
    if (transport) await page.addInitScript((name) => sessionStorage.setItem("live-room.transport", name), transport);
    await page.goto(`${base}/${address}`);
    return room;
  }

  /** Waits until `check` holds in the page; says `what` was not seen otherwise, and what was. */
  async sees(what, check, argument, timeout = PATIENCE_MS) {
    try {
      await this.page.waitForFunction(check, argument, { timeout, polling: 50 });
    } catch (error) {
      const text = (selector) => this.page.locator(selector).innerText({ timeout: 1000 }).catch(() => "(nothing)");
      const [state, events, log] = await Promise.all(["#state", "#events", "#log"].map(text));
      throw new Failed(`not seen within ${timeout} ms: ${what} (${error.message.split("\n")[0]})\nstate: ${state}\nevents:\n${events}\nmessages:\n${log.slice(-1500)}`);
    }
  }

  async connected(transport) {
    await this.sees(`a connection${transport ? ` over ${transport}` : ""}`, (wanted) => {
      const isOn = document.querySelector("#state").dataset.state === "connected";
      return isOn && (!wanted || document.querySelector("#transport").dataset.transport === wanted);
    }, transport, 45_000);
    await this.sees("the room subscribed", (channel) => {
      return document.querySelector(`#channels [data-channel="${channel}"]`)?.textContent.includes("subscribed");
    }, await this.page.locator("#log").getAttribute("data-channel"));
  }

  shows(offset, more = "") {
    return this.sees(`the message ${offset} ${more}`, (selector) => document.querySelector(selector) !== null, `.msg[data-offset="${offset}"]${more}`);
  }

  /** Says something by hand and gives its offset. */
  async say(text) {
    await this.page.locator("#text").fill(text);
    await this.page.keyboard.press("Enter");
    await this.sees("the offset of what was said", () => /In the log at \d+-\d+$/.test(document.querySelector("#out").textContent));
    const offset = (await this.page.locator("#out").textContent()).split(" ").pop();
    await this.shows(offset);
    return offset;
  }

  /** The offsets of the messages that are shown, as they stand there, and how often each was delivered. */
  messages() {
    return this.page.$$eval(".msg:not(.earlier)", (rows) => rows.map(({ dataset }) => ({ offset: dataset.offset, deliveries: Number(dataset.deliveries) })));
  }

  fact(name) {
    return this.page.locator(`#f-${name}`).textContent();
  }

  press(id) {
    return this.page.locator(`#${id}`).click();
  }

  choose(transport) {
    return this.page.locator(`[name=transport][value=${transport}]`).check({ force: true });
  }

  /** Nothing went wrong that nobody asked for. */
  isClean(allowed = /^$/) {
    const wrong = this.problems.filter((problem) => !allowed.test(problem));
    if (wrong.length) throw new Failed(wrong.join("\n"));
  }
}
