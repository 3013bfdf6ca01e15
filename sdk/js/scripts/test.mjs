// Bundles the tests and runs them with node:test.
//
//   node scripts/test.mjs [PART OF A FILE'S NAME]
//
// test/unit      on replaced time and sockets
// test/node      against a real node: TIDEGATE_NODE_BIN is its binary
// test/browser   in a real Chromium against that node: CHROMIUM, by default /usr/bin/chromium
//
// Without TIDEGATE_NODE_BIN only the first are run, and a line says so.

import { spawnSync } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
const wanted = process.argv[2] ?? "";
const folders = ["unit", ...(process.env.TIDEGATE_NODE_BIN ? ["node", "browser"] : [])];
const files = [];
for (const folder of folders) {
  const found = await readdir(`test/${folder}`);
  const tests = found.filter((name) => name.endsWith(".test.ts") && name.includes(wanted));
  files.push(...tests.map((name) => `test/${folder}/${name}`));
}
await rm(".build", { recursive: true, force: true });
await build({
  entryPoints: files, outdir: ".build", outbase: "test", outExtension: { ".js": ".mjs" },
  bundle: true, packages: "external", format: "esm", platform: "node", target: "node20", sourcemap: "inline",
});
const built = files.map((name) => name.replace(/^test/, ".build").replace(/\.ts$/, ".mjs"));
const flags = ["--test-reporter=spec", "--enable-source-maps", "--test", "--test-concurrency=1", "--test-timeout=180000"];
const { status } = spawnSync(process.execPath, [...flags, ...built], { stdio: "inherit" });
if (!process.env.TIDEGATE_NODE_BIN) console.log("not run: the tests against a node and in a browser; set TIDEGATE_NODE_BIN to the binary `tidegate`");
process.exit(status ?? 1);
