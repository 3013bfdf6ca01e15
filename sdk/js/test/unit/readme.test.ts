import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

/** The names of an interface's optional and other fields, but internal ones. */
async function fieldsOf(file: string, name: string): Promise<string[]> {
  const text = await readFile(file, "utf8");
  const body = new RegExp(`interface ${name} \\{(.*?)\\n\\}`, "s").exec(text)![1]!;
  const fields = body.split("\n").filter((line, at, lines) => /^ {2}readonly /.test(line) && !lines[at - 1]!.includes("@internal"));
  return fields.map((line) => /readonly (\w+)/.exec(line)![1]!);
}

test("the README has a row for every option", async () => {
  const readme = await readFile("README.md", "utf8");
  const names = [...(await fieldsOf("src/options.ts", "TidegateOptions")), ...(await fieldsOf("src/subscribing.ts", "SubscribeOptions"))];
  assert.ok(names.length > 15, names.join(" "));
  for (const name of names) assert.match(readme, new RegExp(`^\\| \`${name}\` \\| .+ \\| .+ \\|$`, "m"), name);
});

test("the README names every error code of the client", async () => {
  const readme = await readFile("README.md", "utf8");
  const text = await readFile("src/errors.ts", "utf8");
  const codes = /export type ErrorCode =(.*?);/s.exec(text)![1]!.match(/"(\w+)"/g)!.map((code) => code.slice(1, -1));
  assert.ok(codes.length > 10);
  for (const code of codes) assert.ok(readme.includes(`\`${code}\``), code);
});
