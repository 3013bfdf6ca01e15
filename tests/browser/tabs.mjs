// Two tabs of one user.

import { Room, equal, holds, until } from "./harness.mjs";

const inStep = (offset) => {
  const other = document.querySelector("#tabs li");
  return other?.dataset.step === "yes" && other.dataset.offset === offset;
};

export const checks = [
  {
    name: "two tabs of one user get the same in the same order, and say that they are in step",
    async run(world) {
      const node = await world.node();
      const context = await world.context();
      const first = await Room.open(context, node.base, `?user=alice#room=1&token=${node.token("alice")}`);
      await first.connected();
      const opening = context.waitForEvent("page");
      await first.press("other-tab");
      const second = new Room();
      second.page = await opening;
      await second.connected();
      for (const room of [first, second]) equal("the user", await room.fact("user"), "alice");
      holds("each tab is a device of its own", (await first.fact("device")) !== (await second.fact("device")));
      equal("sessions of the node", await node.metric("tidegate_sessions", { tenant: "demo" }), 2);

      const offsets = [];
      for (let i = 0; i < 10; i++) offsets.push(await node.publish(`for both ${i}`));
      offsets.push(await first.say("from the first"), await second.say("from the second"));
      for (const room of [first, second]) {
        await room.shows(offsets.at(-1), '[data-acked="yes"]');
        equal("offsets in order", (await room.messages()).map(({ offset }) => offset).join(), offsets.join());
        await room.sees("the other tab in step", inStep, offsets.at(-1));
      }

      await second.press("drop");
      const missed = await node.publish("only the first sees this now");
      await first.sees("the other tab behind", () => document.querySelector("#tabs li")?.dataset.step === "no");
      await second.press("drop");
      await second.shows(missed);
      for (const room of [first, second]) await room.sees("both in step again", inStep, missed);
      equal("closed as replaced", await node.metric("tidegate_connections_closed_total", { tenant: "demo", reason: "replaced" }), 0);
      first.isClean();
    },
  },
  {
    name: "a personal acknowledgement of one tab does not take the message from the other",
    async run(world) {
      const node = await world.node();
      const context = await world.context();
      const address = `#room=1&token=${node.token("bob")}`;
      const [first, second] = [await Room.open(context, node.base, address), await Room.open(context, node.base, address)];
      for (const room of [first, second]) await room.connected();
      await second.press("withhold");
      const offset = await node.publish("acknowledged by one");
      await first.shows(offset, '[data-acked="yes"]');
      await second.shows(offset, '[data-acked="no"]');
      await second.page.reload();
      await second.connected();
      await second.shows(offset, '[data-acked="yes"]');
      await until("it was shown once by each", async () => (await first.messages()).length === 1 && (await second.messages()).length === 1);
    },
  },
];
