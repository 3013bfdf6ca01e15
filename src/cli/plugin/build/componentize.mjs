import { readFile, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { pathToFileURL } from 'node:url';

const [module, source, witPath, worldName, out] = process.argv.slice(1);
try {
  const { componentize } = await import(pathToFileURL(module));
  const { component } = await componentize(await readFile(source, 'utf8'), {
    sourceName: basename(source),
    witPath,
    worldName,
    // Clocks, random numbers and the log come from the contract's imports where a plugin asks for them.
    disableFeatures: ['random', 'clocks', 'stdio', 'http', 'fetch-event'],
  });
  await writeFile(out, component);
} catch (error) {
  console.error(error?.message ?? error);
  process.exitCode = 1;
}
