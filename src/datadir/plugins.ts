/** Whether an output plugin is installed beside a server: a slot whose plugin is missing there cannot be read after a promotion. */
import { readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { DataDirectoryError } from "./errors.ts";
import { readSettings, readStartOptions } from "./settings.ts";

const PLUGIN_NAME = /^[A-Za-z0-9_.-]+$/;
const SUFFIXES = [".so", ".dylib"];
/** In every server's library folder: no standby streams without it. */
const LANDMARK = "libpqwalreceiver";

/**
 * Whether the server that uses this data directory has the plugin's library; null when its library folder cannot be found, as where
 * the server's programs are in another container.
 */
export async function hasPlugin(dir: string, plugin: string): Promise<boolean | null> {
  if (!PLUGIN_NAME.test(plugin)) return false;
  // recovery.conf has no such setting: read as a version without one
  const path = (await readSettings(dir, 12)).get("dynamic_library_path") ?? null;
  return (await new LibraryFolders(dir).look(path))?.has(plugin) ?? null;
}

/** A folder's entries, read again when it has changed. */
interface Listing {
  changedAtMs: number;
  readAtMs: number;
  /** Names of libraries that are files of their own, … */
  names: readonly string[];
  /** … and paths of those that are links, whose targets may go by themselves. */
  links: readonly string[];
}

/** A folder that changed so shortly before it was read may have changed once more since, with the same time. */
const SETTLED_MS = 2_000;

/** Where a server finds its libraries: asked in every look, for a stat or two. Looks for the programs that it was last started with, at their path here. */
export class LibraryFolders {
  readonly #dir: string;
  #library: string | null = null;
  readonly #listings = new Map<string, Listing>();

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** After another start of the server, which may have been with other programs. */
  forget(): void {
    this.#library = null;
    this.#listings.clear();
  }

  /** The names of all libraries, without suffix; null when a folder of the path cannot be read. Throws DataDirectoryError never. */
  async look(libraryPath: string | null): Promise<ReadonlySet<string> | null> {
    this.#library ??= await this.#find();
    if (this.#library === null) return null;
    const found = new Set<string>();
    for (const folder of searchPath(libraryPath, this.#library)) {
      const listing = await this.#list(folder);
      if (listing === null) return null;
      for (const name of listing.names) found.add(name);
      for (const link of listing.links)
        if (await stat(link).catch(() => null)) found.add(nameOf(basename(link)));
    }
    return found;
  }

  async #find(): Promise<string | null> {
    const options = await readStartOptions(this.#dir).catch((error) => {
      if (error instanceof DataDirectoryError) return null;
      throw error;
    });
    if (!options || !isAbsolute(options.executable)) return null;
    return libraryFolder(options.executable);
  }

  async #list(folder: string): Promise<Listing | null> {
    try {
      const { mtimeMs: changedAtMs } = await stat(folder);
      const known = this.#listings.get(folder);
      if (known?.changedAtMs === changedAtMs && known.readAtMs - changedAtMs > SETTLED_MS) return known;
      const readAtMs = Date.now();
      const entries = (await readdir(folder, { withFileTypes: true })).filter(({ name }) => isLibrary(name));
      const listing: Listing = {
        changedAtMs,
        readAtMs,
        names: entries.filter((entry) => !entry.isSymbolicLink()).map(({ name }) => nameOf(name)),
        links: entries.filter((entry) => entry.isSymbolicLink()).map(({ name }) => join(folder, name)),
      };
      this.#listings.set(folder, listing);
      return listing;
    } catch {
      return null;
    }
  }
}

function isLibrary(file: string): boolean {
  return SUFFIXES.some((suffix) => file.endsWith(suffix));
}

function nameOf(file: string): string {
  return file.slice(0, file.lastIndexOf("."));
}

async function libraryFolder(executable: string): Promise<string | null> {
  const resolved = await realpath(executable).catch(() => executable);
  for (const path of new Set([resolved, executable])) {
    for (const candidate of libraryFolders(dirname(path))) {
      const names = await readdir(candidate).catch(() => []);
      if (names.some((name) => isLibrary(name) && nameOf(name) === LANDMARK)) return candidate;
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
function searchPath(given: string | null, library: string): string[] {
  if (given === null || given === "") return [library];
  return given
    .split(":")
    .map((folder) => folder.replace(/^\$libdir(?=\/|$)/, library))
    .filter((folder) => isAbsolute(folder));
}
