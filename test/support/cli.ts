/** The command as an operator runs it: `dist/main.js` in a process of its own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import { stringify } from "yaml";
import type { PgServer } from "../../src/sandbox/server.ts";
import { withFileLock } from "./lock.ts";
import { temporaryDirectory } from "./sidecar.ts";
import { eventually } from "./wait.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const MAIN = path.join(ROOT, "dist/main.js");

/** Builds `dist` when a source is newer than it. Call it before the first command. */
export async function buildCli(): Promise<void> {
  mkdirSync(path.join(ROOT, ".cache"), { recursive: true });
  await withFileLock(path.join(ROOT, ".cache/build.lock"), async () => {
    const sources = readdirSync(path.join(ROOT, "src"), { recursive: true, encoding: "utf8" });
    const newest = Math.max(...sources.map((name) => statSync(path.join(ROOT, "src", name)).mtimeMs));
    const built = statSync(MAIN, { throwIfNoEntry: false })?.mtimeMs ?? 0;
    if (built > newest) return;
    const tsc = path.join(ROOT, "node_modules/.bin/tsc");
    execFileSync(tsc, ["-p", path.join(ROOT, "tsconfig.build.json")], { stdio: "pipe" });
  });
}

export interface CliResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RunningCli {
  readonly pid: number;
  readonly stdout: string;
  readonly stderr: string;
  /** The log's records so far, of a command that logs JSON to stdout. */
  readonly log: Record<string, unknown>[];
  /** Waits for a log record whose message fits. */
  logged(message: RegExp): Promise<Record<string, unknown>>;
  kill(signal: NodeJS.Signals): void;
  readonly ended: Promise<CliResult>;
}

export interface CliOptions {
  /** Besides the environment of the test, from which all of SLOTSYNC_ and PG is left out. */
  env?: Record<string, string>;
}

/** Starts the command; it is gone with the test. */
export function startCli(args: readonly string[], { env = {} }: CliOptions = {}): RunningCli {
  const child: ChildProcess = spawn(process.execPath, [MAIN, ...args], {
    env: { ...cleanEnvironment(), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name]?.setEncoding("utf8").on("data", (chunk: string) => {
      text[name] += chunk;
    });
  const ended = once(child, "close").then(
    ([code, signal]): CliResult => ({
      code: code as number | null,
      signal: signal as NodeJS.Signals | null,
      ...text,
    }),
  );
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  const running: RunningCli = {
    pid: child.pid ?? 0,
    get stdout() {
      return text.stdout;
    },
    get stderr() {
      return text.stderr;
    },
    get log() {
      const whole = text.stdout.slice(0, text.stdout.lastIndexOf("\n") + 1);
      return whole
        .split("\n")
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    },
    async logged(message) {
      const gone = () => child.exitCode !== null || child.signalCode !== null;
      const find = () => running.log.find(({ msg }) => message.test(String(msg)));
      try {
        return await eventually(() => find() ?? (gone() ? { gone: true } : null), {
          what: `the log to say ${message}`,
          timeoutMs: 20_000,
        }).then((record) => {
          if ("gone" in record && !find()) throw new Error("it ended before");
          return record;
        });
      } catch (error) {
        throw new Error(`${String(error)}; its output:\n${text.stdout}\n${text.stderr}`, { cause: error });
      }
    },
    kill: (signal) => void child.kill(signal),
    ended,
  };
  return running;
}

/** Runs the command to its end. */
export function cli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  return startCli(args, options).ended;
}

export interface CliConfig {
  file: string;
  stateDirectory: string;
}

/** Settings as in the file, by section; over short naps and timeouts, and every slot chosen. */
export type ConfigSettings = Record<string, unknown>;

/** Writes a configuration for a standby; gone with the test. */
export function writeConfig(standby: PgServer, settings: ConfigSettings = {}): CliConfig {
  const folder = temporaryDirectory();
  const file = path.join(folder, "slotsync.yaml");
  const stateDirectory = path.join(folder, "state");
  const config = {
    standby: { dsn: standby.dsn(), data_directory: standby.dataDir },
    slots: { include: [{ name_like: "%" }] },
    state_directory: stateDirectory,
    nap: { min_ms: 100, max_ms: 1_000 },
    timeouts: { connect_ms: 1_000, statement_ms: 4_000, answer_ms: 5_000 },
    ...settings,
  };
  writeFileSync(file, stringify(config));
  return { file, stateDirectory };
}

function cleanEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(SLOTSYNC_|PG|NODE_OPTIONS|VITEST)/.test(name)),
  );
}
