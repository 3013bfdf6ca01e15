import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { startNode, until } from "../support/live.js";

test("the README's first example runs as it stands", async () => {
  const readme = await readFile("README.md", "utf8");
  const example = /```js\n(.*?)```/s.exec(readme)![1]!;
  const live = await startNode();
  // Inside the package, which finds itself by its name.
  const file = ".build/readme-example.mjs";
  const code = example.replace("http://127.0.0.1:8080", live.url);
  assert.notEqual(code, example);
  await writeFile(file, code);
  const child = spawn(process.execPath, [file], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (piece: Buffer) => (said += piece.toString()));
  try {
    await until("the message", () => said.includes("hello"));
    assert.equal(said.trim(), "{ text: 'hello' }");
  } finally {
    child.kill();
    await rm(file);
    await live.stop();
  }
});
