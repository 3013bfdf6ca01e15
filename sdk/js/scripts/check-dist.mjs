// Builds again and compares with dist/, and with the size that README.md states.
//
//   node scripts/check-dist.mjs           exits 1 where something differs, and says what
//   node scripts/check-dist.mjs --write   builds dist/ and writes the size into README.md

import { spawnSync } from "node:child_process";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
const SIZE = /(<!-- size -->)[^<]*(<!-- \/size -->)/;

async function contents(folder) {
  const names = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = names.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath ?? entry.path, entry.name));
  return new Map(await Promise.all(files.map(async (file) => [file.slice(folder.length + 1), await readFile(file, "utf8")])));
}

function build(folder) {
  run("scripts/build.mjs", folder);
}

/** Runs a script; where it fails it has said why. */
function run(...words) {
  const { status } = spawnSync(process.execPath, words, { stdio: "inherit" });
  if (status !== 0) process.exit(1);
}

/** In kilobytes of 1,000 bytes, rounded up: compressors differ by some bytes. */
function sizeOf(files) {
  const bytes = gzipSync(files.get("tidegate.min.js"), { level: 9 }).length;
  return `${(Math.ceil(bytes / 100) / 10).toFixed(1)} kB`;
}

async function write() {
  build("dist");
  const readme = await readFile("README.md", "utf8");
  if (!SIZE.test(readme)) throw new Error("README.md has no place for the size: <!-- size --><!-- /size -->");
  const size = sizeOf(await contents("dist"));
  await writeFile("README.md", readme.replace(SIZE, `$1${size}$2`));
  console.log(`dist/ is built; minified and compressed with gzip it has ${size}`);
}

async function check() {
  build(".build/dist");
  const [kept, built] = [await contents("dist"), await contents(".build/dist")];
  await rm(".build/dist", { recursive: true });
  const names = new Set([...kept.keys(), ...built.keys()]);
  const wrong = [...names].filter((name) => kept.get(name) !== built.get(name)).map((name) => `dist/${name} is not what the sources give`);
  const said = /<!-- size -->([^<]*)</.exec(await readFile("README.md", "utf8"))?.[1];
  if (said !== sizeOf(built)) wrong.push(`README.md says ${said ?? "nothing"} where dist/tidegate.min.js has ${sizeOf(built)}`);
  // An application that uses the package by its name, with the strictest of settings.
  run("node_modules/typescript/bin/tsc", "-p", "tsconfig.consumer.json");
  for (const line of wrong) console.error(line);
  if (wrong.length > 0) {
    console.error("run `npm run build` in sdk/js and commit what it changes");
    process.exit(1);
  }
  console.log(`dist/ is what the sources give, and README.md states its size (${said})`);
}

await (process.argv.includes("--write") ? write() : check());
