import assert from "node:assert/strict";
import { test } from "node:test";
import type { MessageFrame } from "../../src/frames.js";
import { LogInbox, QueueInbox, Recent } from "../../src/inbox.js";
import { seeded } from "../support/random.js";

const message = (n: number, attempt = 1): MessageFrame => ({ type: "message", channel: "room:1", offset: `${n}-0`, data: n, attempt });
const at = (n: number) => `${n}-0`;

test("acks go as far as everything before is handled", () => {
  const inbox = new LogInbox();
  for (const n of [1, 2, 3]) assert.equal(inbox.receive(message(n)), "new");
  for (const n of [1, 2, 3]) assert.equal(inbox.take()?.data, n);
  inbox.done(at(2));
  assert.deepEqual(inbox.takeAcks(), []);
  inbox.done(at(1));
  assert.deepEqual(inbox.takeAcks(), [at(2)]);
  assert.deepEqual(inbox.takeAcks(), [], "each is given once");
  inbox.done(at(3));
  assert.deepEqual(inbox.takeAcks(), [at(3)]);
  assert.equal(inbox.floor, at(3));
});

test("only what is handled, or in the handler, is dropped", () => {
  const inbox = new LogInbox();
  for (const n of [1, 2, 3]) inbox.receive(message(n));
  inbox.take();
  inbox.done(at(1));
  inbox.take();
  assert.equal(inbox.receive(message(1, 2)), "handled");
  assert.equal(inbox.receive(message(2, 2)), "known", "it is in the handler");
  assert.equal(inbox.receive(message(3, 2)), "known", "it waits: the newer copy takes its place");
  assert.equal(inbox.waiting, 1);
  assert.equal(inbox.take()?.attempt, 2);
  inbox.refuse(at(2));
  assert.equal(inbox.receive(message(2, 3)), "known");
  assert.equal(inbox.take()?.attempt, 3, "what was refused comes again");
});

test("what was handled and is sent again is acknowledged again", () => {
  const inbox = new LogInbox();
  inbox.receive(message(1));
  inbox.take();
  inbox.done(at(1));
  assert.deepEqual(inbox.takeAcks(), [at(1)]);
  inbox.receive(message(1, 2));
  assert.deepEqual(inbox.takeAcks(), [at(1)]);
  inbox.lost();
  assert.deepEqual(inbox.takeAcks(), [at(1)], "nobody knows what a broken connection brought");
});

test("a refused message holds the acks back until it is handled or given up", () => {
  const inbox = new LogInbox();
  for (const n of [1, 2, 3]) inbox.receive(message(n));
  inbox.take();
  inbox.refuse(at(1));
  for (const n of [2, 3]) {
    inbox.take();
    inbox.done(at(n));
  }
  assert.deepEqual(inbox.takeAcks(), []);
  inbox.skip(at(1), true);
  assert.deepEqual(inbox.takeAcks(), [at(3)]);
});

test("a position moves the floor only over what is handled, and is not acknowledged itself", () => {
  const inbox = new LogInbox();
  inbox.restart(at(0));
  inbox.receive(message(1));
  inbox.skip(at(5), false);
  assert.equal(inbox.floor, at(0));
  inbox.take();
  inbox.done(at(1));
  assert.equal(inbox.floor, at(5));
  assert.deepEqual(inbox.takeAcks(), [at(1)]);
  inbox.skip(at(3), false);
  assert.equal(inbox.floor, at(5), "it never goes back");
});

test("a message that a gap passed over may still come, and is not dropped", () => {
  const inbox = new LogInbox();
  inbox.restart(at(0));
  inbox.skip(at(9), true);
  assert.equal(inbox.floor, at(9));
  assert.equal(inbox.receive(message(4)), "new");
  inbox.take();
  inbox.done(at(4));
  assert.equal(inbox.floor, at(9));
  assert.equal(inbox.receive(message(4, 2)), "handled");
});

test("what is left open comes to the application again", () => {
  const inbox = new LogInbox();
  inbox.receive(message(1));
  inbox.take();
  inbox.leave(at(1));
  assert.equal(inbox.take(), undefined);
  inbox.receive(message(1, 2));
  assert.equal(inbox.take()?.attempt, 2);
});

test("another life of the store voids what was known", () => {
  const inbox = new LogInbox();
  inbox.receive(message(50));
  inbox.take();
  inbox.done(at(50));
  inbox.receive(message(60));
  inbox.restart(at(10));
  assert.equal(inbox.waiting, 0);
  assert.equal(inbox.receive(message(20)), "new", "offsets below the old ack are new ones now");
});

/** Any order of events: what is acknowledged was handled, nothing is handled twice after its ack, nothing is lost. */
test("no order of events loses a message or acknowledges one that was not handled", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = seeded(seed);
    const pick = (most: number) => Math.floor(random() * most);
    const inbox = new LogInbox();
    inbox.restart(at(0));
    const [handled, active] = [new Set<number>(), new Set<number>()];
    let [sent, acked] = [0, 0];
    const count = 12;
    const trail: string[] = [];
    const take = () => {
      const taken = inbox.take();
      if (!taken) return;
      const n = taken.data as number;
      assert.ok(n > acked, `seed ${seed}: ${n} was given after its ack\n${trail.join(" ")}`);
      assert.ok(!active.has(n), `seed ${seed}: ${n} is in the handler already`);
      active.add(n);
    };
    const settle = (isDone: boolean) => {
      const n = [...active][pick(active.size)];
      if (n === undefined) return;
      active.delete(n);
      if (isDone) {
        handled.add(n);
        inbox.done(at(n));
      } else if (random() < 0.5) inbox.refuse(at(n));
      else inbox.leave(at(n));
      for (const offset of inbox.takeAcks()) {
        acked = Math.max(acked, Number(offset.split("-")[0]));
        for (let below = 1; below <= acked; below++) assert.ok(handled.has(below), `seed ${seed}: ${below} was acknowledged unhandled\n${trail.join(" ")}`);
      }
    };
    for (let step = 0; step < 150; step++) {
      const what = pick(6);
      trail.push(String(what));
      if (what === 0 && sent < count) inbox.receive(message(++sent));
      if (what === 1 && sent > 0) inbox.receive(message(1 + pick(sent), 2));
      if (what === 2) take();
      if (what === 3) settle(true);
      if (what === 4) settle(false);
      if (what === 5 && random() < 0.2) inbox.lost();
    }
    // In the end everything that was not acknowledged is sent again, as often as it takes.
    for (let round = 0; round < 4; round++) {
      while (active.size > 0) settle(true);
      while (sent < count) inbox.receive(message(++sent));
      for (let n = acked + 1; n <= count; n++) inbox.receive(message(n, 9));
      for (let n = 0; n < count; n++) take();
    }
    while (active.size > 0) settle(true);
    assert.equal(handled.size, count, `seed ${seed}: not everything was handled\n${trail.join(" ")}`);
    assert.equal(acked, count, `seed ${seed}: not everything was acknowledged`);
    assert.equal(inbox.waiting, 0);
  }
});

test("tasks of a queue are acknowledged one by one", () => {
  const queue = new QueueInbox();
  for (const n of [3, 1, 2]) queue.receive(message(n));
  assert.equal(queue.waiting, 3);
  assert.deepEqual([queue.take()?.data, queue.take()?.data], [3, 1], "in the order they were given");
  queue.done(at(1));
  assert.deepEqual(queue.takeAcks(), [at(1)]);
  assert.equal(queue.receive(message(3, 2)), "known", "it is in the handler");
  assert.equal(queue.receive(message(1, 2)), "handled");
  assert.deepEqual(queue.takeAcks(), [at(1)], "the ack was lost");
  queue.refuse(at(3));
  assert.equal(queue.receive(message(3, 2)), "new");
});

test("what nobody began goes back with the connection, and acks go with the session", () => {
  const queue = new QueueInbox();
  for (const n of [1, 2]) queue.receive(message(n));
  queue.take();
  queue.lost();
  assert.equal(queue.waiting, 0);
  assert.equal(queue.receive(message(1, 2)), "known", "the application still works at it");
  assert.equal(queue.receive(message(2, 2)), "new");
  queue.done(at(1));
  queue.forget();
  assert.deepEqual(queue.takeAcks(), []);
  assert.equal(queue.receive(message(1, 3)), "handled", "it was done here all the same");
});

test("only so many names are remembered, and used ones longest", () => {
  const recent = new Recent(3);
  for (const name of ["a", "b", "c", "a", "d"]) recent.add(name);
  assert.deepEqual(["a", "b", "c", "d"].map((name) => recent.has(name)), [true, false, true, true]);
});
