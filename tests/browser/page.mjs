// Drives the live-room page in a real Chromium against a running node.
//
//   node tests/browser/page.mjs PAGE_URL PUBLISH_URL SCREENSHOT_FOLDER [ACK_TIMEOUT_MS]
//
// PAGE_URL            the page, for example http://127.0.0.1:8080/
// PUBLISH_URL         the node's publish route, for example http://127.0.0.1:8080/v1/demo/publish
// SCREENSHOT_FOLDER   where desktop.png, phone.png and dark.png go; it is made when missing
// ACK_TIMEOUT_MS      the node's ack timeout (30000 by default): redelivery is waited for that long and a half
//
// Prints `ok` and exits 0, or says what was not seen and exits 1. playwright-core is looked for beside this
// file and in $TIDEGATE_NODE_MODULES; the browser is /usr/bin/chromium or $CHROMIUM.

import { createRequire } from "node:module";
import { mkdtemp, mkdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [pageUrl, publishUrl, shots, ackTimeout = "30000"] = process.argv.slice(2);
if (!shots) {
  console.error("usage: node page.mjs PAGE_URL PUBLISH_URL SCREENSHOT_FOLDER [ACK_TIMEOUT_MS]");
  process.exit(2);
}
const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

function playwright() {
  const folder = process.env.TIDEGATE_NODE_MODULES;
  const from = folder ? join(folder, "x.js") : import.meta.url;
  try {
    return createRequire(from)("playwright-core");
  } catch {
    throw new Error("playwright-core is not installed: run scripts/install-test-tools.sh, and set TIDEGATE_NODE_MODULES to what it prints");
  }
}

/** Publishes over HTTP and returns the offset. */
async function publish(data, extra = {}) {
  const answer = await fetch(publishUrl, {
    method: "POST",
    headers: { authorization: "Bearer demo-key", "content-type": "application/json" },
    body: JSON.stringify({ channel: "room:1", data, ...extra }),
  });
  if (!answer.ok) throw new Error(`publishing over HTTP answered ${answer.status}: ${await answer.text()}`);
  const [result] = (await answer.json()).results;
  if (!result?.offset) throw new Error(`publishing over HTTP gave no offset: ${JSON.stringify(result)}`);
  return result.offset;
}

/** Waits until `check` holds in the page; says `what` was not seen otherwise. */
async function see(page, what, check, argument, timeout = 15000) {
  try {
    await page.waitForFunction(check, argument, { timeout, polling: 50 });
  } catch (error) {
    const log = await page.locator("#log").innerText().catch(() => "(no log)");
    const state = await page.locator("#state").innerText().catch(() => "(no state)");
    throw new Error(`not seen within ${timeout} ms: ${what}\nstate: ${state}\nlog:\n${log}\n(${error.message.split("\n")[0]})`);
  }
}

function equal(what, got, wanted) {
  if (got !== wanted) throw new Error(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
}

const row = (offset) => `.msg[data-channel="room:1"][data-offset="${offset}"]`;
const connected = () => document.querySelector("#state").dataset.state === "connected";
const present = (selector) => document.querySelector(selector) !== null;

async function checkMessages(page) {
  const first = await publish({ text: "the ebb begins", knots: 1.5 }, { headers: { "ce-type": "tide.ebb" } });
  await see(page, "the first message, acknowledged", present, `${row(first)}[data-attempt="1"][data-acked="yes"]`);
  const shown = await page.locator(row(first)).innerText();
  for (const part of [first, "the ebb begins", "attempt 1"]) {
    if (!shown.includes(part)) throw new Error(`the message shows no ${JSON.stringify(part)}: ${shown}`);
  }
  const markup = '<img src=x onerror="document.title=1"><b>bold</b>';
  const hostile = await publish(markup);
  await see(page, "markup in a payload", present, row(hostile));
  equal("markup is shown as it was sent", await page.locator(`${row(hostile)} .payload`).textContent(), markup);
  equal("elements made by a payload", await page.locator("#log img, #log .payload *").count(), 0);
}

async function checkRedelivery(page) {
  await page.locator("#withhold").check();
  const withheld = await publish("nobody acknowledges this");
  await see(page, "a message that is held back", present, `${row(withheld)}[data-acked="no"]`);
  const patience = Number(ackTimeout) * 1.5 + 5000;
  await see(page, "the second attempt", (at) => Number(document.querySelector(at)?.dataset.attempt) >= 2, row(withheld), patience);
  equal("rows of a message that came twice", await page.locator(row(withheld)).count(), 1);
  return withheld;
}

async function checkRecovery(page, withheld) {
  await page.locator("#away").selectOption("3000");
  await page.locator("#drop").click();
  await see(page, "the dropped connection", () => document.querySelector("#state").dataset.state === "dropped");
  const missed = [];
  for (const text of ["missed: one", "missed: two", "missed: three"]) missed.push(await publish(text));
  equal("messages that arrive while away", await page.locator(row(missed[0])).count(), 0);
  await see(page, "the connection after the pause", connected);
  await see(page, "the recovery card with three messages", (count) => Number(document.querySelector(".recovery")?.dataset.back) === count, missed.length);
  for (const offset of missed) await see(page, `the missed message ${offset}`, present, `${row(offset)}.back`);
  await see(page, "the withheld message again", (at) => Number(document.querySelector(at).dataset.deliveries) >= 3, row(withheld));
  const card = page.locator(".recovery").first();
  equal("resumed", await card.getAttribute("data-resumed"), "home");
  equal("recovered", await card.getAttribute("data-recovered"), "true");
}

async function checkPublishing(page) {
  await page.locator("#publish-text").fill('{"from":"the page"}');
  await page.locator("#publish-form button").click();
  await see(page, "the offset of what the page published", () => /at \d+-\d+$/.test(document.querySelector("#publish-out").textContent));
  const offset = (await page.locator("#publish-out").textContent()).split(" ").pop();
  await see(page, "the page's own message", present, row(offset));
  return offset;
}

async function shoot(page) {
  await mkdir(shots, { recursive: true });
  for (const [name, width, height, colorScheme] of [["desktop", 1280, 900, "light"], ["phone", 390, 844, "light"], ["dark", 1280, 900, "dark"]]) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(1200); // the water settles
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) throw new Error(`${name}: the page is ${wide} pixels wider than its window`);
    await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  }
}

async function main() {
  const profile = await mkdtemp(join(tmpdir(), "tidegate-page-"));
  const context = await playwright().chromium.launchPersistentContext(profile, { executablePath: chromium, args: FLAGS, headless: true });
  try {
    const page = await context.newPage();
    const problems = [];
    page.on("pageerror", (error) => problems.push(`exception: ${error.message}`));
    page.on("console", (line) => { if (line.type() === "error") problems.push(`console: ${line.text()}`); });
    page.on("request", (request) => { if (!/^data:/.test(request.url()) && new URL(request.url()).host !== new URL(pageUrl).host) problems.push(`asked another host: ${request.url()}`); });
    await page.goto(pageUrl);
    await see(page, "the connection", connected);
    await see(page, "room:1 subscribed", present, '#channels [data-channel="room:1"][data-subscribed="yes"]');
    if (/\{\{/.test(await page.locator("body").innerText())) throw new Error("the page shows a placeholder the node did not fill");

    await checkMessages(page);
    const withheld = await checkRedelivery(page);
    await checkRecovery(page, withheld);
    const own = await checkPublishing(page);
    await shoot(page);
    await page.locator("#withhold").uncheck();
    await see(page, "everything acknowledged", present, `${row(own)}[data-acked="yes"]`);
    equal("messages held back at the end", await page.locator("#held").textContent(), "0");
    if (problems.length) throw new Error(problems.join("\n"));
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
}

try {
  await main();
  console.log("ok");
} catch (error) {
  console.error(`page test failed: ${error.message}`);
  process.exit(1);
}
