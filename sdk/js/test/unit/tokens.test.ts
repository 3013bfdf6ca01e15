import assert from "node:assert/strict";
import { test } from "node:test";
import type { TokenReason } from "../../src/token.js";
import { connected, watch } from "../support/client.js";
import { Node } from "../support/node.js";
import { settle, World } from "../support/world.js";

/** A token that expires after so many milliseconds of the world's time. */
function tokenFor(world: World, ms: number, name = "t"): string {
  const claims = JSON.stringify({ sub: name, exp: (world.clock.now + ms) / 1000 });
  return `e30.${Buffer.from(claims).toString("base64url")}.${name}`;
}

test("a token is asked for once, and again shortly before it expires", async () => {
  const world = new World();
  const node = new Node(world);
  const reasons: TokenReason[] = [];
  const { client } = await connected(world, {
    getToken: (reason) => {
      reasons.push(reason);
      return tokenFor(world, 600_000, `t${reasons.length}`);
    },
  });
  await world.clock.advance(539_000);
  assert.deepEqual(reasons, ["first"]);
  await world.clock.advance(1_000);
  assert.deepEqual(reasons, ["first", "expiring"], "a minute before");
  const [refresh] = world.socket.of("refresh");
  assert.match(refresh!.token, /t2$/);
  world.socket.breaks();
  await world.clock.advance(1_000);
  assert.equal(client.state, "connected");
  assert.match(node.connects.at(-1)!.token!, /t2$/, "the same token, so that no plugin is asked");
  await world.clock.advance(540_000);
  assert.deepEqual(reasons, ["first", "expiring", "expiring"]);
});

test("a refused token is replaced once, then it is over", async () => {
  const world = new World();
  const reasons: TokenReason[] = [];
  world.onSocket = (socket) => {
    socket.onFrame = () => socket.says({ type: "disconnect", code: 4002, reason: "unauthorized" });
    socket.open();
  };
  const { client } = watch(world, { getToken: async (reason) => (reasons.push(reason), "opaque") });
  const refused = assert.rejects(client.connect(), { code: "refused", closeCode: 4002 });
  await world.clock.advance(60_000);
  await refused;
  assert.deepEqual(reasons, ["first", "refused"]);
  assert.equal(client.state, "closed");
});

test("a token that expired on the connection is replaced, each time anew", async () => {
  const world = new World();
  const node = new Node(world);
  let count = 0;
  const { client } = await connected(world, { getToken: () => `t${++count}` });
  for (let round = 2; round <= 4; round++) {
    await world.clock.advance(20_000);
    world.socket.says({ type: "disconnect", code: 4007, reason: "token_expired" });
    await world.clock.advance(1_000);
    assert.equal(client.state, "connected");
    assert.equal(node.connects.at(-1)!.token, `t${round}`);
  }
});

test("a token that never lasts makes no storm", async () => {
  const world = new World();
  const node = new Node(world);
  let count = 0;
  await connected(world, { getToken: () => `t${++count}` });
  for (let second = 0; second < 30; second++) {
    if (node.session.socket === world.socket) world.socket.says({ type: "disconnect", code: 4007, reason: "token_expired" });
    await world.clock.advance(1_000);
  }
  assert.ok(count <= 9, `${count} tokens in 30 s`);
});

test("without getToken a refused token ends it at once", async () => {
  const world = new World();
  new Node(world);
  const { client } = await connected(world, { token: "t" });
  world.socket.says({ type: "disconnect", code: 4007, reason: "token_expired" });
  await settle();
  assert.equal(client.state, "closed");
});

test("a clock that is wrong does not make a storm of tokens", async () => {
  const world = new World();
  new Node(world);
  let count = 0;
  await connected(world, { getToken: () => (count++, tokenFor(world, -3_600_000)) });
  await world.clock.advance(600_000);
  assert.equal(count, 1, "the server says when it expires");
});

test("getToken may fail for a while", async () => {
  const world = new World();
  new Node(world);
  let isBroken = true;
  const { client, errors } = watch(world, {
    getToken: async () => {
      if (isBroken) throw new Error("the login server is away");
      return "t";
    },
  });
  void client.connect();
  await world.clock.advance(2_000);
  assert.ok(errors.length >= 1);
  assert.equal(errors[0]!.code, "token_failed");
  assert.match(errors[0]!.message, /login server is away/);
  isBroken = false;
  await world.clock.advance(60_000);
  assert.equal(client.state, "connected");
});

test("a refresh that fails is told and tried again", async () => {
  const world = new World();
  const node = new Node(world);
  const answers = [tokenFor(world, 100_000), new Error("away"), tokenFor(world, 900_000)];
  const { errors } = await connected(world, {
    getToken: () => {
      const answer = answers.shift()!;
      if (answer instanceof Error) throw answer;
      return answer;
    },
  });
  await world.clock.advance(90_000);
  assert.deepEqual(errors.map(({ code }) => code), ["token_failed"]);
  await world.clock.advance(10_000);
  assert.equal(world.socket.of("refresh").length, 1);
  assert.equal(node.connects.length, 1);
});

test("a token can be replaced by hand", async () => {
  const world = new World();
  const node = new Node(world);
  const { client } = await connected(world, { token: "t1" });
  await client.refresh("t2");
  assert.deepEqual(world.socket.of("refresh").map(({ token }) => token), ["t2"]);
  world.socket.breaks();
  await world.clock.advance(1_000);
  assert.equal(node.connects.at(-1)!.token, "t2");
  const anonymous = new World();
  new Node(anonymous);
  await assert.rejects((await connected(anonymous)).client.refresh(), { code: "invalid" });
});
