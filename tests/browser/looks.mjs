// How the page looks and is used: on a phone, in the dark, by keyboard, and whether all of it can be read.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Failed, HURRIED, Room, equal, holds } from "./harness.mjs";

const SCREENS = [
  ["desktop", { viewport: { width: 1280, height: 900 }, colorScheme: "light" }],
  ["dark", { viewport: { width: 1280, height: 900 }, colorScheme: "dark" }],
  ["phone", { viewport: { width: 360, height: 740 }, colorScheme: "light", deviceScaleFactor: 2, isMobile: true, hasTouch: true }],
  ["phone-dark", { viewport: { width: 360, height: 740 }, colorScheme: "dark", deviceScaleFactor: 2, isMobile: true, hasTouch: true }],
];

/** Runs in the page: texts whose contrast is under WCAG 2.2 AA (section 1.4.3): 4.5, or 3 where they are large. */
function unreadable() {
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const node of document.body.querySelectorAll("*")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!hasText || !node.checkVisibility() || node.closest("script, style, noscript, button:disabled")) continue;
    const { color, fontSize } = getComputedStyle(node);
    const [a, b] = [light(color), light(ground(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (parseFloat(fontSize) >= 24 ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${node.tagName} ${node.className} "${node.textContent.trim().slice(0, 30)}"`);
  }
  return found;
}

async function lively(world, options) {
  const node = await world.node({ config: `${HURRIED}ack_timeout_ms = 1000\n` });
  const room = await Room.open(await world.context(options), node.base, "?user=ann");
  await room.connected();
  const says = [["Ben", "The ebb begins"], ["Mia", "Two knots at the bar"], ["Jonas", "Anyone at the north quay?"], ["Lin", "High water at 14:20"]];
  for (const [name, text] of says) await node.publish({ name, text });
  await node.publish({ knots: 1.5, wind: "SW" });
  await room.say("Hello from the quay");
  return { node, room };
}

export const checks = [
  ...SCREENS.map(([name, options]) => ({
    name: `${name}: nothing is wider than the window, and everything can be read`,
    async run(world) {
      const { node, room } = await lively(world, options);
      await room.press("withhold");
      const offset = await node.publish({ name: "Mia", text: "This one is held back" });
      await room.sees("a second attempt", (at) => Number(document.querySelector(`.msg[data-offset="${at}"]`)?.dataset.attempt) >= 2, offset);
      await room.press("reconnect");
      await room.sees("the card of a recovery", () => document.querySelector(".recovery") !== null);
      await room.connected();
      // A phone's window would grow with what is too wide for it.
      const wide = (await room.page.evaluate(() => document.documentElement.scrollWidth)) - options.viewport.width;
      holds(`the page is no wider than its window (${wide} pixels)`, wide <= 0);
      const bad = await room.page.evaluate(unreadable);
      if (bad.length) throw new Failed(`texts with too little contrast:\n${bad.join("\n")}`);
      if (options.isMobile) {
        const small = await room.page.$$eval("button, a.button, input[type=text], .segments label", (all) => all.filter((one) => one.checkVisibility()).map((one) => [one.id || one.textContent, one.getBoundingClientRect()]).filter(([, { width, height }]) => width < 24 || height < 34).map(([what]) => what));
        equal("controls too small for a thumb", small.join(), "");
      }
      await room.page.evaluate(() => scrollTo(0, 0));
      await mkdir(world.shots, { recursive: true });
      await room.page.screenshot({ path: join(world.shots, `${name}.png`) });
      await room.page.screenshot({ path: join(world.shots, `${name}-full.png`), fullPage: true });
    },
  })),
  {
    name: "everything can be done by keyboard, in a sensible order, with the focus seen",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base);
      await room.connected();
      const { keyboard } = room.page;
      const focused = () => room.page.evaluate(() => {
        const { activeElement: at } = document;
        if (at === document.body) return { id: "" };
        const shown = at.matches("[type=radio]") ? at.nextElementSibling : at;
        return { id: at.id || at.dataset.copy?.replace("line", "copy") || at.value || at.textContent.trim(), isSeen: getComputedStyle(shown).outlineStyle === "solid" };
      });
      const order = [];
      for (let i = 0; i < 30; i++) {
        await keyboard.press("Tab");
        const { id, isSeen } = await focused();
        if (order.includes(id) || id === "") break;
        holds(`the focus on ${id} is seen`, isSeen);
        order.push(id);
      }
      equal("the order of the focus", order.join(" "), "Skip to the messages room-name Go log name text Send auto drop withhold flood reconnect other-tab events copy-xadd line-xadd copy-python line-python copy-curl line-curl");

      await room.page.locator("#text").focus();
      await keyboard.type("by keyboard");
      await keyboard.press("Enter");
      await room.sees("what was said", () => document.querySelector(".msg.mine")?.textContent.includes("by keyboard"));
      await room.sees("it told to screen readers, once", () => document.querySelector("#spoken").textContent.includes("by keyboard"));
      equal("the list itself is silent", await room.page.locator("#log").getAttribute("aria-live"), "off");
      await room.page.locator("#withhold").focus();
      await keyboard.press("Space");
      equal("withholding", await room.page.locator("#withhold").getAttribute("aria-pressed"), "true");
      await keyboard.press("Enter");
      equal("acknowledging", await room.page.locator("#withhold").getAttribute("aria-pressed"), "false");
      await room.page.locator("[name=transport]:checked").focus();
      await keyboard.press("ArrowRight");
      await keyboard.press("ArrowRight");
      await room.connected("websocket");
      const unnamed = await room.page.$$eval("button, input, a, [role=img], [role=log], ol[tabindex]", (all) => all.filter((one) => {
        const label = one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent.trim() || one.getAttribute("aria-labelledby");
        return !label;
      }).map((one) => one.outerHTML.slice(0, 80)));
      equal("controls without a name", unnamed.join("\n"), "");
      room.isClean();
    },
  },
];
