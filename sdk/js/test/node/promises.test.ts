// What the client promises, against a real node, over each transport that Node has.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Message } from "../../src/message.js";
import type { Tidegate, TransportName } from "../../src/tidegate.js";
import { clientOf, publish, startNode, tokenOf, until, type Live } from "../support/live.js";

let live: Live;
const clients: Tidegate[] = [];

before(async () => {
  live = await startNode();
});
after(async () => {
  await Promise.all(clients.map((client) => client.close()));
  await live.stop();
});

for (const transport of ["websocket", "sse"] as const satisfies TransportName[]) {
  describe(transport, () => {
    const client = async (options = {}): Promise<Tidegate> => {
      const made = clientOf(live, transport, options);
      clients.push(made);
      await made.connect();
      assert.equal(made.connection?.transport, transport);
      return made;
    };
    const channel = (name: string) => `room:${transport}-${name}`;

    test("publishing, receiving, payloads of all kinds", async () => {
      const one = await client();
      const got: Message[] = [];
      const room = one.subscribe(channel("payloads"));
      room.on("message", (message) => void got.push(message));
      await room.ready;
      const payloads = [{ a: [1, null, "ä"] }, "text", new Uint8Array([255, 0, 254]), 42, null, true];
      const offsets = [];
      for (const data of payloads) offsets.push((await one.publish(channel("payloads"), data)).offset);
      await until("six messages", () => got.length === 6);
      assert.deepEqual(got.map(({ data }) => data), payloads);
      assert.deepEqual(got.map(({ offset }) => offset), offsets);
      assert.equal(got[3]!.headers["content-type"], "application/json");
    });

    test("publishing twice with one key stores once", async () => {
      const one = await client();
      await one.subscribe(channel("twice")).ready;
      const first = await one.publish(channel("twice"), "x", { msgId: "order-1" });
      assert.deepEqual(await one.publish(channel("twice"), "x", { msgId: "order-1" }), first);
      const { entries } = await one.history(channel("twice"), { limit: 10 });
      assert.deepEqual(entries.map(({ data, msgId }) => ({ data, msgId })), [{ data: "x", msgId: "order-1" }]);
    });

    test("refusals have the server's code", async () => {
      const one = await client();
      await assert.rejects(one.subscribe("nowhere:1").ready, { code: "not_found" });
      await assert.rejects(one.subscribe("user:somebody-else").ready, { code: "forbidden" });
      await assert.rejects(one.publish(channel("nobody-subscribed"), 1), { code: "forbidden" });
      await assert.rejects(one.history(channel("x"), { limit: 1, before: "5-0", after: "1-0" }), { code: "bad_request" });
    });

    test("a message whose handler fails comes again, and acks hold until it is handled", async () => {
      const one = await client({ device: `failing-${transport}` });
      const attempts: number[] = [];
      const room = one.subscribe<string>(channel("failing"), { ack: "auto", nackDelayMs: 20 });
      room.on("error", () => undefined);
      room.on("message", ({ data, attempt }) => {
        if (data !== "bad") return;
        attempts.push(attempt);
        if (attempts.length < 3) throw new Error("not yet");
      });
      await room.ready;
      const bad = await publish(live, channel("failing"), "bad");
      const good = await publish(live, channel("failing"), "good");
      await until("the third attempt, and both acknowledged", () => attempts.length === 3 && room.position?.offset === good);
      assert.ok(attempts[2]! > attempts[0]!, `attempts ${attempts.join(", ")}`);
      assert.notEqual(bad, good);
    });

    test("a device goes on where it had acknowledged, in another session", async () => {
      const known = { device: `device-${transport}`, token: tokenOf(`ann-${transport}`) };
      const one = await client(known);
      const got: unknown[] = [];
      const room = one.subscribe(channel("device"), { ack: "auto" });
      room.on("message", ({ data }) => void got.push(data));
      await room.ready;
      const offset = await publish(live, channel("device"), "one");
      await until("the first message", () => room.position?.offset === offset);
      await one.close();
      await publish(live, channel("device"), "two");
      const two = await client(known);
      assert.equal(two.connection?.resumed, "new");
      const rest: unknown[] = [];
      two.subscribe(channel("device"), { ack: "auto" }).on("message", ({ data }) => void rest.push(data));
      await until("what it had not acknowledged", () => rest.length > 0);
      assert.deepEqual([got, rest], [["one"], ["two"]]);
    });

    test("personal messages are acknowledged, and come to the next session of the device only once", async () => {
      const token = tokenOf(`bea-${transport}`);
      const device = `personal-${transport}`;
      await publish(live, `user:bea-${transport}`, "one");
      for (const wanted of ["one", "two"]) {
        const one = clientOf(live, transport, { device, token });
        clients.push(one);
        const got: unknown[] = [];
        const own = one.personal({ ack: "auto" });
        own.on("message", ({ data }) => void got.push(data));
        await one.connect();
        await until(`the message ${wanted}`, () => got.length > 0);
        assert.deepEqual(got, [wanted]);
        await own.unsubscribe();
        await one.close();
        await publish(live, `user:bea-${transport}`, "two");
      }
    });

    test("a token is refreshed before it expires", async () => {
      let count = 0;
      const one = await client({ getToken: () => (count++, tokenOf(`cleo-${transport}`, count === 1 ? "3s" : "1h")) });
      const { session } = one.connection!;
      await until("the second token", () => count === 2);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
      await one.subscribe(channel("refreshed")).ready;
      assert.equal(one.connection?.session, session);
    });

    test("history and presence", async () => {
      const one = await client();
      await one.subscribe(channel("history")).ready;
      for (const data of ["a", "b", "c"]) await one.publish(channel("history"), data);
      const { entries, epoch } = await one.history(channel("history"), { limit: 2 });
      assert.deepEqual(entries.map(({ data }) => data), ["b", "c"]);
      assert.match(epoch!, /^[0-9a-f]{16}$/);
      const below = await one.history(channel("history"), { limit: 5, before: entries[0]!.offset });
      assert.deepEqual(below.entries.map(({ data }) => data), ["a"]);
      await assert.rejects(one.presence(channel("history")), { code: "unsupported" });
    });

    test("a queue's tasks are shared, and each is done once", async () => {
      const name = `queue:${transport}`;
      const done: unknown[] = [];
      for (let worker = 0; worker < 2; worker++) {
        const queue = (await client()).subscribe(name, { queue: true, window: 1 });
        queue.on("message", async ({ data }) => {
          await new Promise((resolve) => setTimeout(resolve, 1));
          done.push(data);
        });
        await queue.ready;
      }
      for (let n = 0; n < 20; n++) await publish(live, name, n);
      await until("twenty tasks", () => done.length >= 20);
      assert.deepEqual(done.toSorted((a, b) => (a as number) - (b as number)), Array.from({ length: 20 }, (_, n) => n));
    });

    test("what was sent to the backends is stored, and replies can come", async () => {
      const one = await client();
      const replies = one.replies({ ack: "auto" });
      const got: unknown[] = [];
      replies.on("message", ({ data }) => void got.push(data));
      await one.send({ item: 17 }, { topic: "orders" });
      await replies.ready;
      await publish(live, `session:${one.connection!.session}`, "thanks");
      await until("the reply", () => got.length === 1);
      assert.deepEqual(got, ["thanks"]);
    });

    test("the user's own channel brings what was published before", async () => {
      const first = await client();
      const user = first.connection!.user;
      const one = clientOf(live, transport);
      clients.push(one);
      const got: unknown[] = [];
      const own = one.personal();
      own.on("message", ({ data }) => void got.push(data));
      await one.connect();
      await own.ready;
      assert.equal(own.channel, `user:${one.connection!.user}`);
      assert.notEqual(one.connection!.user, user);
      await publish(live, own.channel, "for you");
      await until("the personal message", () => got.length === 1);
    });

    test("a slow application gets everything from the log, in order", async () => {
      const one = await client();
      const room = one.subscribe<number>(channel("slow"), { maxBuffered: 5 });
      await room.ready;
      for (let n = 0; n < 60; n++) await publish(live, channel("slow"), n);
      const got: number[] = [];
      for await (const { data } of room) {
        got.push(data);
        if (data === 59) break;
      }
      assert.deepEqual(got, Array.from({ length: 60 }, (_, n) => n));
    });
  });
}
