// What the page shows and does, on one node.

import { HURRIED, Room, equal, holds, until } from "./harness.mjs";

async function opened(world, { node: options, address, context, transport } = {}) {
  const node = await world.node(options);
  const room = await Room.open(await world.context(context), node.base, address, transport);
  await room.connected();
  return { node, room };
}

export const checks = [
  {
    name: "messages with offset and attempt, whatever their payload, and markup as text",
    async run(world) {
      const { node, room } = await opened(world);
      const first = await node.publish({ name: "Ben", text: "the ebb begins", knots: 1.5 }, { headers: { "ce-type": "tide.ebb" } });
      await room.shows(first, '[data-attempt="1"][data-acked="yes"]');
      const shown = await room.page.locator(`.msg[data-offset="${first}"]`).innerText();
      for (const part of [first, "Ben", "the ebb begins", '"knots":1.5', "attempt 1", "ce-type: tide.ebb"]) {
        holds(`the message shows ${part}: ${shown}`, shown.includes(part));
      }
      const markup = '<img src=x onerror="document.title=1"><b>bold</b>';
      for (const data of [markup, { name: markup, text: markup }, [markup]]) {
        const offset = await node.publish(data);
        await room.shows(offset);
        const text = await room.page.locator(`.msg[data-offset="${offset}"]`).textContent();
        holds(`markup is shown as it was sent: ${text}`, text.includes(typeof data === "string" || !Array.isArray(data) ? markup : JSON.stringify(data)));
      }
      equal("elements made by payloads", await room.page.locator("#log img, #log b:not(.meta b), #log .payload *").count(), 0);
      equal("the title", await room.page.title(), "Tidegate · live room");
      const bytes = await node.publish("/wD+", { enc: "base64" });
      await room.shows(bytes);
      holds("bytes are shown as bytes", (await room.page.locator(`.msg[data-offset="${bytes}"]`).textContent()).includes("3 bytes: ff 00 fe"));
      holds("no placeholder is left", !/\{\{/.test(await room.page.locator("body").innerText()));
      room.isClean();
    },
  },
  {
    name: "what the page says is published under its name, and its round trip is measured",
    async run(world) {
      const { room } = await opened(world, { address: "#room=quay" });
      equal("the channel", await room.page.locator("#log").getAttribute("data-channel"), "room:quay");
      holds("the lines to copy name it", (await room.page.locator("#line-curl").textContent()).includes("room:quay"));
      await room.page.locator("#name").fill("Mia");
      const offset = await room.say("hello from the quay");
      const row = room.page.locator(`.msg.mine[data-offset="${offset}"]`);
      equal("who said it", await row.locator(".who").textContent(), "Mia");
      await room.sees("a latency", () => /^last [\d.]+ ms/.test(document.querySelector("#spark-text").textContent));
      await room.sees("the channel in the inspector", (last) => document.querySelector('#channels [data-channel="room:quay"]').dataset.last === last, offset);
      await room.page.locator("#room-name").fill("north/quay");
      await room.page.locator("#room-form button").click();
      holds("a name that is none is refused with words", (await room.page.locator("#room-name").evaluate((input) => input.validationMessage)).startsWith("A room is named"));
      await room.page.locator("#room-name").fill("north");
      await room.page.locator("#room-form button").click();
      await room.sees("the other room", () => document.querySelector("#log").dataset.channel === "room:north");
      room.isClean();
    },
  },
  {
    name: "withheld acknowledgements bring messages again as attempt 2, once on the list; then all are acknowledged",
    async run(world) {
      const { node, room } = await opened(world, { node: { config: `${HURRIED}ack_timeout_ms = 1500\nwindow = 2\n` } });
      await room.press("withhold");
      const offsets = [await node.publish("nobody acknowledges this"), await node.publish("nor this")];
      for (const offset of offsets) await room.shows(offset, '[data-acked="no"]');
      const third = await node.publish("waits for room in the window");
      equal("unacknowledged", await room.page.locator("#held").textContent(), "2");
      await room.sees("the second attempt", (offset) => Number(document.querySelector(`.msg[data-offset="${offset}"]`).dataset.attempt) >= 2, offsets[0]);
      equal("rows of a message that came twice", await room.page.locator(`.msg[data-offset="${offsets[0]}"]`).count(), 1);
      await room.press("withhold");
      for (const offset of offsets) await room.shows(offset, '[data-acked="yes"]');
      equal("unacknowledged at the end", await room.page.locator("#held").textContent(), "0");
      // The window was full: this one comes because the node has the acknowledgements.
      await room.shows(third, '[data-attempt="1"][data-acked="yes"]');
      equal("rows in all", (await room.messages()).length, 3);
      room.isClean();
    },
  },
  {
    name: "a message that is never acknowledged ends as a gap, told as one",
    async run(world) {
      const { node, room } = await opened(world, { node: { config: `${HURRIED}ack_timeout_ms = 300\nattempts = 2\n` } });
      await room.press("withhold");
      await node.publish("given up");
      await room.sees("the gap", () => document.querySelector("#log .gap")?.textContent.includes("never acknowledged"));
      await room.sees("nothing held any more", () => document.querySelector("#held").textContent === "0");
      room.isClean();
    },
  },
  {
    name: "a flood of 200 comes back whole and in order, and the list stays bounded",
    async run(world) {
      const { node, room } = await opened(world);
      for (let i = 0; i < 30; i++) await node.publish(`before ${i}`);
      await room.press("flood");
      await room.sees("all 200", () => Number(document.querySelector("#flood-out").dataset.back) === 200, undefined, 60_000);
      const { sent, failed, twice, ordered } = await room.page.locator("#flood-out").evaluate(({ dataset }) => ({ ...dataset }));
      equal("sent, failed, twice, in order", [sent, failed, twice, ordered].join(), "200,0,0,yes");
      await room.sees("the summary", () => /^200 of 200 came back/.test(document.querySelector("#flood-out").textContent));
      holds("rows of the list are bounded", (await room.page.locator("#log > li").count()) <= 201);
      const rest = await room.page.locator("#log").evaluate((log) => log.scrollHeight - log.clientHeight - log.scrollTop);
      holds(`the list stands at its end (${rest} pixels from it)`, rest < 40);
      await room.sees("many messages in flight", () => Number(/^(\d+) flying/.exec(document.querySelector("#f-stage").textContent)?.[1]) >= 100);
      room.isClean();
    },
  },
  {
    name: "viewers are counted, and newcomers to a full room believe those who are there",
    async run(world) {
      const { node, room } = await opened(world);
      const other = await Room.open(await world.context(), node.base);
      await other.connected();
      for (const one of [room, other]) await one.sees("two viewers", () => document.querySelector("#viewers").dataset.count === "2");
      await other.page.close();
      await room.sees("one viewer", () => document.querySelector("#viewers").dataset.count === "1", undefined, 60_000);
      // Some of a thousand: who comes believes them, and speaks as seldom as one of so many does.
      for (let i = 0; i < 9; i++) await node.publish({ page: `viewer-${i}`, every: 250, viewers: 1000 }, { channel: "room:1-viewers" });
      const late = await Room.open(await world.context(), node.base);
      await late.connected();
      await late.sees("what the others say", () => document.querySelector("#viewers").textContent === "about 1000 viewers");
      const words = await late.page.locator('#channels [data-channel="room:1-viewers"]').textContent();
      holds(`it keeps quiet: ${words}`, words.includes("; 0 received"));
      room.isClean();
    },
  },
  {
    name: "whoever prefers less motion gets a stage that stands still, and the list",
    async run(world) {
      const { node, room } = await opened(world, { context: { reducedMotion: "reduce" } });
      const offset = await node.publish("no motion");
      await room.shows(offset);
      await room.sees("that the stage is still", () => document.querySelector("#f-stage").textContent.startsWith("still"));
      const picture = () => room.page.locator("#stage").evaluate((canvas) => canvas.toDataURL());
      const before = await picture();
      await room.page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
      equal("frames later the picture is the same", await picture(), before);
      const next = await node.publish("another line");
      await room.shows(next);
      await until("the new line on the stage", async () => (await picture()) !== before);
      room.isClean();
    },
  },
  {
    name: "a page whose client does not load says so",
    async run(world) {
      const node = await world.node();
      const context = await world.context();
      await context.route("**/tidegate.js", (route) => route.abort());
      const room = await Room.open(context, node.base);
      await room.sees("what went wrong", () => document.querySelector("#state-text").textContent.includes("did not load"));
    },
  },
  {
    name: "a token in the fragment leaves the address and names the user",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base, `#token=${node.token("alice")}&room=2`);
      await room.connected();
      equal("the user", await room.fact("user"), "alice");
      equal("the address", new URL(room.page.url()).hash, "#room=2");
      await room.page.reload();
      await room.connected();
      equal("the user after a refresh", await room.fact("user"), "alice");
      room.isClean();
    },
  },
  {
    name: "what the server refuses for good is said, with a way on",
    async run(world) {
      const node = await world.node();
      const room = await Room.open(await world.context(), node.base, "#token=not.a.token");
      await room.sees("that it stopped, and why", () => {
        const state = document.querySelector("#state");
        return state.dataset.state === "stopped" && state.textContent.includes("4002");
      });
      await room.page.locator("#state button").click();
      await room.connected();
      holds("it is anonymous now", (await room.fact("user")).startsWith("anon-"));
    },
  },
];
