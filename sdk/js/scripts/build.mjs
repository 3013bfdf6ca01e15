// Builds dist/: one module, the same minified, and the types.
//
//   node scripts/build.mjs [FOLDER]

import { spawnSync } from "node:child_process";
import { rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = process.argv[2] ?? "dist";
process.chdir(root);
await rm(folder, { recursive: true, force: true });
const common = {
  entryPoints: ["src/tidegate.ts"], bundle: true, format: "esm", target: "es2022", platform: "neutral",
  charset: "utf8", legalComments: "none",
};
await build({ ...common, outfile: `${folder}/tidegate.js` });
await build({ ...common, outfile: `${folder}/tidegate.min.js`, minify: true });
const tsc = ["node_modules/typescript/bin/tsc", "-p", "tsconfig.dist.json", "--outDir", folder];
process.exitCode = spawnSync(process.execPath, tsc, { stdio: "inherit" }).status ?? 1;
