// Drives the live-room page in a real Chromium against real nodes.
//
//   node tests/browser/run.mjs TIDEGATE_BINARY SCREENSHOT_FOLDER [WORD …]
//
// Prints a line for each check, and exits with 1 when one failed. With words, only the checks whose names contain
// one of them. playwright-core is looked for beside this file and in $TIDEGATE_NODE_MODULES; the browser is
// /usr/bin/chromium or $CHROMIUM. With TIDEGATE_PAGE=tree the browser sees the page and the client of this clone.

import { Failed, Node, launch, newContext } from "./harness.mjs";
import { checks as looks } from "./looks.mjs";
import { checks as origins } from "./origins.mjs";
import { checks as page } from "./page.mjs";
import { checks as resume } from "./resume.mjs";
import { checks as tabs } from "./tabs.mjs";
import { checks as transports } from "./transports.mjs";

/** The longest that one check may take, in milliseconds. */
const LONGEST_MS = 120_000;

const [binary, shots, ...words] = process.argv.slice(2);
if (!shots) {
  console.error("usage: node run.mjs TIDEGATE_BINARY SCREENSHOT_FOLDER [WORD …]");
  process.exit(2);
}

/** What a check is given; all that it opens is closed when it is over. */
class World {
  #closers = [];

  constructor(browser) {
    this.browser = browser;
    this.shots = shots;
  }

  async node(options) {
    const node = await Node.start(binary, options);
    this.#closers.push(() => node.stop());
    this.nodes = [...(this.nodes ?? []), node];
    return node;
  }

  async context(options) {
    const context = await newContext(this.browser, options);
    this.#closers.push(() => context.close());
    return context;
  }

  /** Closes something else in the end, too. */
  later(close) {
    this.#closers.push(close);
  }

  async close() {
    for (const close of this.#closers.reverse()) await close();
  }
}

async function run({ name, run }, browser) {
  const world = new World(browser);
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Failed(`no end within ${LONGEST_MS} ms`)), LONGEST_MS)));
  const began = Date.now();
  try {
    await Promise.race([run(world), late]);
    console.log(`ok  ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    return true;
  } catch (error) {
    const logs = (world.nodes ?? []).map((node) => `the log of ${node.base} ends with:\n${node.log}`);
    console.log(`FAILED  ${name}: ${error instanceof Failed ? error.message : error.stack}\n${logs.join("\n")}`);
    return false;
  } finally {
    clearTimeout(timer);
    await world.close();
  }
}

const all = [...page, ...transports, ...resume, ...tabs, ...origins, ...looks];
const chosen = all.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
if (chosen.length === 0) {
  console.error(`no check has one of these in its name: ${words.join(", ")}`);
  process.exit(2);
}
const browser = await launch();
let passed = 0;
try {
  for (const check of chosen) if (await run(check, browser)) passed++;
} finally {
  await browser.close();
}
console.log(`\n${passed} passed, ${chosen.length - passed} failed`);
process.exit(passed === chosen.length ? 0 : 1);
