/** What a server's configuration files say, read without the server: what its next start will go by. */
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { dirname, isAbsolute, join, relative } from "node:path";
import { isOn, parseConfigFile, parseInteger, parseStartOptions, type StartOptions } from "./config-file.ts";
import { errnoOf, readError } from "./errors.ts";

/** As PostgreSQL's own CONF_FILE_MAX_DEPTH. */
const MAX_DEPTH = 10;

type Values = ReadonlyMap<string, string>;

/** Where settings come from, from the weakest to the strongest, and what of it could not be read. */
interface Sources {
  main: Values;
  mainSkipped: string[];
  auto: Values;
  autoSkipped: string[];
  recovery: Values;
  recoverySkipped: string[];
  commandLine: Values;
  commandLineSkipped: string[];
}

/**
 * The settings that are not at their defaults, names in lower case, values as written (units and all): postgresql.conf with what it
 * includes, over it postgresql.auto.conf, before 12 recovery.conf, and over all of them the command line of the last start
 * (postmaster.opts). What cannot be read, or not understood, is left out and named in `skipped` (`file` or `file:line`).
 * Never throws for a file of the server.
 */
export async function readSettings(dir: string, major: number, skipped: string[] = []): Promise<Values> {
  const sources = await readSources(dir, major);
  skipped.push(
    ...sources.mainSkipped,
    ...sources.autoSkipped,
    ...sources.recoverySkipped,
    ...sources.commandLineSkipped,
  );
  return new Map([...sources.main, ...sources.auto, ...sources.recovery, ...sources.commandLine]);
}

/** What a start over staged logical slots needs (I11); null: not known. */
export interface NextStart {
  /** With more slot folders PostgreSQL does not start. */
  maxReplicationSlots: number | null;
  /** With less than "logical" it does not start over a logical slot. */
  walLevel: string | null;
  /** When off, a standby of 16 and later does not start over a logical slot. */
  hotStandby: boolean | null;
}

/**
 * What the next start will have, at the least (I11): the lower of what the files say and of what the running server has, since files
 * may be changed either way before it. null: not known, because the place where the setting may stand could not be read.
 */
export async function nextStart(
  dir: string,
  major: number,
  running: { maxReplicationSlots: number; walLevel: string } | null,
): Promise<NextStart> {
  const sources = await readSources(dir, major);
  const slotsText = settingOf(sources, "max_replication_slots", "10");
  const slots = slotsText === null ? null : parseInteger(slotsText);
  const levelText = settingOf(sources, "wal_level", "replica");
  const level = levelText === null ? null : walLevelOf(levelText);
  const hotStandby = settingOf(sources, "hot_standby", "on");
  return {
    hotStandby: hotStandby === null ? null : isOn(hotStandby),
    maxReplicationSlots: slots !== null && running ? Math.min(slots, running.maxReplicationSlots) : slots,
    walLevel: level !== null && running ? lowerLevel(level, walLevelOf(running.walLevel)) : level,
  };
}

/** The value of a setting as the next start will see it, its default when nothing sets it; null when that cannot be told. */
function settingOf(sources: Sources, name: string, byDefault: string): string | null {
  const given = sources.commandLine.get(name);
  if (given !== undefined) return given;
  if (sources.commandLineSkipped.length > 0) return null;
  // whatever could not be read may hold the line that wins
  if (sources.autoSkipped.length > 0) return null;
  const auto = sources.auto.get(name);
  if (auto !== undefined) return auto;
  return sources.mainSkipped.length > 0 ? null : (sources.main.get(name) ?? byDefault);
}

const LEVELS = ["minimal", "replica", "logical"];

function walLevelOf(text: string): string | null {
  const level = text.trim().toLowerCase();
  // the names of before 9.6 are still accepted
  if (level === "archive" || level === "hot_standby") return "replica";
  return LEVELS.includes(level) ? level : null;
}

function lowerLevel(one: string, other: string | null): string | null {
  return other === null ? null : (LEVELS[Math.min(LEVELS.indexOf(one), LEVELS.indexOf(other))] ?? null);
}

/** How the server was last started; null when its postmaster.opts is not there or says nothing. */
export async function readStartOptions(dir: string): Promise<StartOptions | null> {
  const path = join(dir, "postmaster.opts");
  try {
    return parseStartOptions(await readFile(path, "utf8"));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return null;
    throw readError(path, error);
  }
}

/** Whether a recovery.conf (before 12) makes the next start a standby's; false when there is none. */
export async function asksForStandby(dir: string): Promise<boolean> {
  const reader = new Reader((path) => path);
  await reader.read(join(dir, "recovery.conf"), { optional: true });
  return isOn(reader.values.get("standby_mode"));
}

async function readSources(dir: string, major: number): Promise<Sources> {
  const commandLineSkipped: string[] = [];
  const options = await readStartOptions(dir).catch(() => {
    commandLineSkipped.push(join(dir, "postmaster.opts"));
    return null;
  });
  const toOurs = await pathMapping(dir, options);

  const main = new Reader(toOurs);
  await main.read(await configFile(dir, options, toOurs), {});
  const auto = new Reader(toOurs);
  await auto.read(join(dir, "postgresql.auto.conf"), { optional: true });
  const recovery = new Reader(toOurs);
  if (major < 12) await recovery.read(join(dir, "recovery.conf"), { optional: true });

  return {
    main: main.values,
    mainSkipped: main.skipped,
    auto: auto.values,
    autoSkipped: auto.skipped,
    recovery: recovery.values,
    recoverySkipped: recovery.skipped,
    commandLine: options?.settings ?? new Map(),
    commandLineSkipped,
  };
}

/** Paths inside the data directory as the server knows them, to where they are for us: the directory may be mounted elsewhere. */
async function pathMapping(dir: string, options: StartOptions | null): Promise<(path: string) => string> {
  const pidFile = await readFile(join(dir, "postmaster.pid"), "utf8").catch(() => "");
  const roots = [pidFile.split("\n")[1], options?.dataDirectory].filter(
    (root): root is string => typeof root === "string" && isAbsolute(root) && root !== "/",
  );
  return (path) => {
    for (const root of roots) {
      const inside = relative(root, path);
      if (isAbsolute(path) && inside !== "" && !inside.startsWith("..")) return join(dir, inside);
    }
    return path;
  };
}

/** postgresql.conf, which need not lie in the data directory. */
async function configFile(
  dir: string,
  options: StartOptions | null,
  toOurs: (path: string) => string,
): Promise<string> {
  const given = options?.settings.get("config_file");
  // relative to where the server was started, which nobody knows: read as one that is missing, and so named as skipped
  if (given !== undefined) return toOurs(given);
  const own = join(dir, "postgresql.conf");
  const elsewhere = options?.dataDirectory;
  if (!elsewhere || !isAbsolute(elsewhere)) return own;
  // -D may name a folder of nothing but configuration, whose data_directory then leads here
  const reader = new Reader((path) => path);
  const candidate = join(elsewhere, "postgresql.conf");
  await reader.read(candidate, { optional: true });
  const dataDirectory = reader.values.get("data_directory");
  return dataDirectory !== undefined && (await samePlace(dataDirectory, dir)) ? candidate : own;
}

async function samePlace(one: string, other: string): Promise<boolean> {
  try {
    return (await realpath(one)) === (await realpath(other));
  } catch {
    return false;
  }
}

class Reader {
  readonly values = new Map<string, string>();
  readonly skipped: string[] = [];
  readonly #toOurs: (path: string) => string;

  constructor(toOurs: (path: string) => string) {
    this.#toOurs = toOurs;
  }

  /** Takes in a file; one that may be missing is only then passed over silently. */
  async read(
    path: string,
    { optional = false, depth = 0 }: { optional?: boolean; depth?: number },
  ): Promise<void> {
    let text: string;
    try {
      if (!isAbsolute(path) || depth > MAX_DEPTH) throw new RangeError(path);
      text = await readFile(path, "utf8");
    } catch (error) {
      if (!optional || errnoOf(error) !== "ENOENT") this.skipped.push(path);
      return;
    }
    for (const line of parseConfigFile(text)) {
      switch (line.kind) {
        case "setting":
          // the last one wins, also in what iterates over them
          this.values.delete(line.name);
          this.values.set(line.name, line.value);
          break;
        case "error":
          this.skipped.push(`${path}:${line.line}`);
          break;
        case "include":
          await this.read(this.#resolve(line.target, path), { depth: depth + 1 });
          break;
        case "include_if_exists":
          await this.read(this.#resolve(line.target, path), { optional: true, depth: depth + 1 });
          break;
        case "include_dir":
          await this.#readFolder(this.#resolve(line.target, path), depth + 1);
          break;
      }
    }
  }

  /** Relative to the file that it stands in. */
  #resolve(target: string, from: string): string {
    return isAbsolute(target) ? this.#toOurs(target) : join(dirname(from), target);
  }

  async #readFolder(folder: string, depth: number): Promise<void> {
    let names: string[];
    try {
      names = await readdir(folder);
    } catch {
      this.skipped.push(folder);
      return;
    }
    const wanted = names.filter((name) => name.endsWith(".conf") && !name.startsWith("."));
    // in the order of their bytes, as strcmp has it
    for (const name of wanted.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))) {
      const path = join(folder, name);
      const isFolder = await stat(path).then(
        (found) => found.isDirectory(),
        () => false,
      );
      if (!isFolder) await this.read(path, { depth });
    }
  }
}
