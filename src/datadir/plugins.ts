/** Whether an output plugin is installed beside a server: a slot whose plugin is missing there cannot be read after a promotion. */
import { readdir, realpath } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { DataDirectoryError } from "./errors.ts";
import { readSettings, readStartOptions } from "./settings.ts";

const PLUGIN_NAME = /^[A-Za-z0-9_.-]+$/;
const SUFFIXES = [".so", ".dylib"];
/** In every server's library folder: no standby streams without it. */
const LANDMARK = "libpqwalreceiver";

/**
 * Whether the server that uses this data directory has the plugin's library; null when its library folder cannot be found, as where
 * the server's programs are in another container. Looks for the programs that the server was last started with, at their path here.
 */
export async function hasPlugin(dir: string, plugin: string): Promise<boolean | null> {
  if (!PLUGIN_NAME.test(plugin)) return false;
  const options = await readStartOptions(dir).catch((error) => {
    if (error instanceof DataDirectoryError) return null;
    throw error;
  });
  if (!options || !isAbsolute(options.executable)) return null;
  const library = await libraryFolder(options.executable);
  if (library === null) return null;
  for (const folder of await searchPath(dir, library)) {
    const names = await namesIn(folder);
    if (names === null) return null;
    if (hasLibrary(names, plugin)) return true;
  }
  return false;
}

function hasLibrary(names: ReadonlySet<string>, library: string): boolean {
  return SUFFIXES.some((suffix) => names.has(`${library}${suffix}`));
}

async function libraryFolder(executable: string): Promise<string | null> {
  const resolved = await realpath(executable).catch(() => executable);
  for (const path of new Set([resolved, executable])) {
    for (const candidate of libraryFolders(dirname(path))) {
      const names = await namesIn(candidate);
      if (names && hasLibrary(names, LANDMARK)) return candidate;
    }
  }
  return null;
}

/** Where builds and distributions have `pg_config --pkglibdir`, seen from the folder of the programs. */
export function libraryFolders(binFolder: string): string[] {
  // /usr/libexec/postgresql15 (Alpine) and its like carry the version in the name
  const versioned = /(?:postgresql|pgsql)[@-]?(\d+)?/.exec(binFolder)?.[0];
  const names = ["postgresql", "pgsql", ...(versioned ? [versioned] : [])];
  const inside = (lib: string) => [
    join(binFolder, "..", lib),
    ...names.map((name) => join(binFolder, "..", lib, name)),
  ];
  const beside = (lib: string) => names.map((name) => join(binFolder, "..", "..", lib, name));
  return [...new Set([...inside("lib"), ...inside("lib64"), ...beside("lib"), ...beside("lib64")])];
}

/** The library folder, or what `dynamic_library_path` puts in its place. */
async function searchPath(dir: string, library: string): Promise<string[]> {
  // recovery.conf has no such setting: read as a version without one
  const given = (await readSettings(dir, 12)).get("dynamic_library_path");
  if (given === undefined) return [library];
  return given
    .split(":")
    .map((folder) => folder.replace(/^\$libdir(?=\/|$)/, library))
    .filter((folder) => isAbsolute(folder));
}

async function namesIn(folder: string): Promise<ReadonlySet<string> | null> {
  try {
    return new Set(await readdir(folder));
  } catch {
    return null;
  }
}
