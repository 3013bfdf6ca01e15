import { readFile, readdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';

// Clocks, random numbers and the log come from the contract's imports where a plugin asks for them.
const without = ['random', 'clocks', 'stdio', 'http', 'fetch-event'];

// `fetch` is there for a world that includes `http`; it needs the rest of WASI, to be able to wait.
async function asksServers(folder) {
  const files = (await readdir(folder)).filter((file) => file.endsWith('.wit'));
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), 'utf8')));
  return texts.some((text) => /^\s*include\s+tidegate:plugin\/http@/m.test(text));
}

const [module, source, witPath, worldName, out] = process.argv.slice(1);
try {
  const { componentize } = await import(pathToFileURL(module));
  const { component } = await componentize(await readFile(source, 'utf8'), {
    sourceName: basename(source),
    witPath,
    worldName,
    disableFeatures: (await asksServers(witPath)) ? ['fetch-event'] : without,
  });
  await writeFile(out, component);
} catch (error) {
  console.error(error?.message ?? error);
  process.exitCode = 1;
}
