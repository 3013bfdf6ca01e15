import assert from "node:assert/strict";
import { test } from "node:test";
import { fullJitter, retryAfter, whatNext } from "../../src/backoff.js";
import { normalAddress } from "../../src/dialer.js";
import { TidegateError } from "../../src/errors.js";
import { compareOffsets, isOffset } from "../../src/offsets.js";
import { nextPing } from "../../src/pace.js";
import { decodePayload, encodePayload } from "../../src/payload.js";
import { expiryOf } from "../../src/token.js";
import { EventReader } from "../../src/transports/eventstream.js";
import { LengthReader, LONGEST_FRAME, withLength } from "../../src/transports/lengths.js";

test("offsets are compared as two numbers of 64 bits", () => {
  const sorted = ["0-0", "9-0", "10-0", "10-2", "10-10", "9007199254740993-0", "18446744073709551615-18446744073709551615"];
  for (const [at, offset] of sorted.entries()) {
    assert.equal(compareOffsets(offset, offset), 0);
    for (const later of sorted.slice(at + 1)) {
      assert.ok(compareOffsets(offset, later) < 0, `${offset} before ${later}`);
      assert.ok(compareOffsets(later, offset) > 0, `${later} after ${offset}`);
    }
  }
  // These two are one number as doubles.
  assert.ok(compareOffsets("9007199254740992-0", "9007199254740993-0") < 0);
  assert.ok(isOffset("1763769600000-0"));
  for (const wrong of ["", "1", "1-", "-1", "1-a", 5, null]) assert.ok(!isOffset(wrong), String(wrong));
});

test("pauses grow from a second to a minute, with full jitter", () => {
  assert.equal(fullJitter(0, 0.999999), 1000);
  assert.equal(fullJitter(3, 0.5), 4000);
  assert.equal(fullJitter(6, 1), 60_000);
  assert.equal(fullJitter(10_000, 1), 60_000);
  assert.equal(fullJitter(10, 0), 0);
});

test("the close code's range says what to do", () => {
  assert.equal(whatNext({ code: 4000, reason: "" }, 0, 1), "stop");
  assert.equal(whatNext({ code: 4099, reason: "" }, 9, 1), "stop");
  assert.equal(whatNext({ code: 4100, reason: "" }, 1, 0.5), 1000);
  assert.equal(whatNext({ code: 4103, reason: "", retryAfterMs: 5000 }, 0, 0.5), 5000);
  assert.equal(whatNext({ code: 4200, reason: "" }, 0, 1), 0);
  assert.equal(whatNext({ code: 4299, reason: "", retryAfterMs: 300 }, 1, 1), 300);
  assert.equal(whatNext({ code: 4200, reason: "" }, 5, 1), 32_000, "now is not believed for ever");
  assert.equal(whatNext({ code: 1006, reason: "" }, 2, 1), 4000);
  assert.equal(whatNext({ reason: "" }, 2, 1), 4000);
  assert.equal(whatNext({ code: 1006, reason: "", retryAfterMs: 120_000 }, 2, 1), 120_000);
});

test("Retry-After is seconds or a date", () => {
  assert.equal(retryAfter("7", 0), 7000);
  assert.equal(retryAfter("Fri, 01 Jan 2027 00:00:10 GMT", Date.UTC(2027, 0, 1)), 10_000);
  assert.equal(retryAfter("Fri, 01 Jan 2027 00:00:10 GMT", Date.UTC(2028, 0, 1)), 0);
  assert.equal(retryAfter("soon", 0), undefined);
  assert.equal(retryAfter(null, 0), undefined);
});

test("heartbeats shorten after silence and lengthen slowly", () => {
  assert.equal(nextPing(25_000, 60_000, true), 12_500);
  assert.equal(nextPing(12_500, 60_000, true), 10_000);
  assert.equal(nextPing(5_000, 60_000, true), 5_000, "what the server agreed to is not made longer by silence");
  assert.equal(nextPing(25_000, 400_000, false), undefined);
  assert.equal(nextPing(25_000, 500_000, false), 31_250);
  assert.equal(nextPing(55_000, 55_000 * 20, false), 60_000);
  assert.equal(nextPing(120_000, 120_000 * 20, false), 120_000);
});

test("payloads go and come as what they are", () => {
  const bytes = Uint8Array.from({ length: 70_000 }, (_, at) => (at * 7) % 256);
  for (const data of [{ a: [1, null] }, [true], "text", "", 4.5, null, false]) {
    assert.deepEqual(decodePayload(JSON.parse(JSON.stringify(encodePayload(data)))), data);
  }
  assert.deepEqual(decodePayload(encodePayload(bytes)), bytes);
  assert.deepEqual(decodePayload(encodePayload(bytes.buffer)), bytes);
  assert.deepEqual(encodePayload("x"), { data: "x", enc: "text" });
  assert.deepEqual(decodePayload({ data: "/wD+", enc: "base64" }), new Uint8Array([255, 0, 254]));
  const changed = { a: 1 };
  const said = encodePayload(changed);
  changed.a = 2;
  assert.deepEqual(said.data, { a: 1 }, "a payload is what it was when it was published");
});

test("what cannot be said in JSON is refused in words", () => {
  const loop: Record<string, unknown> = {};
  loop["self"] = loop;
  for (const data of [undefined, () => 1, Symbol("x"), 10n, loop]) {
    assert.throws(() => encodePayload(data), (error) => error instanceof TidegateError && error.code === "invalid" && error.message.length > 20);
  }
});

test("addresses are normalised, and what is none is refused", () => {
  assert.equal(normalAddress("https://a.example/"), "https://a.example");
  assert.equal(normalAddress("wss://a.example:1"), "https://a.example:1");
  assert.equal(normalAddress("http://a.example/edge/"), "http://a.example/edge");
  for (const wrong of ["", "a.example", "ftp://a", "https://", "http://a/?b", "http://a/#b"]) {
    assert.throws(() => normalAddress(wrong), { code: "invalid" }, wrong);
  }
});

test("the expiry of a JWT is read, and nothing is made of other tokens", () => {
  const claims = Buffer.from(JSON.stringify({ exp: 1_900_000_000, name: "Ünï?>" })).toString("base64url");
  assert.equal(expiryOf(`e30.${claims}.x`), 1_900_000_000_000);
  for (const other of ["opaque", "a.b.c", "", `e30.${Buffer.from("{}").toString("base64url")}.x`]) assert.equal(expiryOf(other), undefined);
});

test("frames with lengths in front survive any cutting", () => {
  const sizes = [0, 1, 63, 64, 16_383, 16_384, 70_000];
  const frames = sizes.map((size) => new Uint8Array(size).fill(size % 251));
  const stream = Buffer.concat(frames.map(withLength));
  assert.deepEqual([...withLength(new Uint8Array(64)).subarray(0, 2)], [0x40, 64], "RFC 9000 section 16");
  for (const step of [1, 2, 3, 1000, 16_385, stream.length]) {
    const reader = new LengthReader();
    const got: Uint8Array[] = [];
    for (let at = 0; at < stream.length; at += step) got.push(...reader.push(stream.subarray(at, at + step)));
    assert.equal(got.length, frames.length);
    got.forEach((frame, at) => assert.ok(Buffer.from(frame).equals(frames[at]!), `frame ${at} in steps of ${step}`));
  }
  // A length of eight bytes is read as well.
  assert.deepEqual(new LengthReader().push(Uint8Array.from([0xc0, 0, 0, 0, 0, 0, 0, 2, 7, 8])), [Uint8Array.from([7, 8])]);
});

test("a length out of bounds is refused before anything is kept for it", () => {
  assert.throws(() => new LengthReader().push(Uint8Array.from([0xff, 255, 255, 255, 255, 255, 255, 255])), RangeError);
  const over = LONGEST_FRAME + 1;
  assert.throws(() => new LengthReader().push(Uint8Array.from([0x80 | (over >>> 24), (over >> 16) & 255, (over >> 8) & 255, over & 255])), RangeError);
});

test("event streams survive any cutting", () => {
  const stream = ': hello\n\nevent: message\nid: 1\ndata: {"a":1}\n\ndata:two\r\ndata: lines\r\n\r\n:\nretry: 5\n\ndata: end\n\n';
  const wanted = [undefined, '{"a":1}', "two\nlines", undefined, "end"];
  for (let step = 1; step <= stream.length; step++) {
    const reader = new EventReader();
    const got: (string | undefined)[] = [];
    for (let at = 0; at < stream.length; at += step) got.push(...reader.push(stream.slice(at, at + step)));
    assert.deepEqual(got, wanted, `in steps of ${step}`);
  }
});
