/** A sidecar in a process of its own, to be killed with SIGKILL at a chosen step. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { Status } from "../../src/domain/status.ts";
import { type Account, giveTo, spawnAs } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { eventually } from "./wait.ts";

/**
 * Where the process ends itself with SIGKILL: around the nth write of its journal, the nth statement that fits, parameters and all, or
 * the nth change to a file that fits, as `mkdir path`, `create path`, `rename from to`, `link from to` or `remove path`.
 */
export type CrashPoint = { when: "before" | "after"; nth: number } & (
  | { at: "save" }
  | { at: "statement"; matching: string }
  | { at: "file"; matching: string }
);

export interface ChildOptions {
  dsn: string;
  dataDirectory: string | null;
  stateDirectory: string;
  crash: CrashPoint | null;
}

export interface SidecarProcess {
  readonly status: Status | null;
  /** All that it has logged. */
  readonly log: string;
  until(what: string, fits: (status: Status) => boolean, timeoutMs?: number): Promise<Status>;
  /** Resolves when it has died at its crash point; rejects when it ends in any other way. */
  died(): Promise<void>;
  /** kill -9 from outside. */
  kill(): Promise<void>;
}

const CHILD = fileURLToPath(new URL("sidecar-child.ts", import.meta.url));

/** Starts it, as the account when one is given; it is gone with the test. */
export function startSidecarProcess(
  standby: PgServer,
  stateDirectory: string,
  crash: CrashPoint | null = null,
  account?: Account,
): SidecarProcess {
  const options: ChildOptions = {
    dsn: standby.dsn(),
    dataDirectory: standby.dataDir,
    stateDirectory,
    crash,
  };
  giveTo(account, stateDirectory);
  const child: ChildProcess = spawn(process.execPath, ["--import", "tsx", CHILD, JSON.stringify(options)], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
    ...spawnAs(account),
  });
  let status: Status | null = null;
  let log = "";
  child.on("message", (message) => {
    status = message as Status;
  });
  child.stderr?.on("data", (chunk: Buffer) => {
    log += chunk.toString();
  });
  const ended = once(child, "close") as Promise<[number | null, NodeJS.Signals | null]>;
  const kill = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  onTestFinished(kill);
  const running = () => child.exitCode === null && child.signalCode === null;
  return {
    get status() {
      return status;
    },
    get log() {
      return log;
    },
    async until(what, fits, timeoutMs = 20_000) {
      const told = () => `last status: ${JSON.stringify(status)}; its log:\n${log}`;
      try {
        await eventually(() => !running() || (status !== null && fits(status)), { what, timeoutMs });
      } catch (error) {
        throw new Error(`${String(error)}; ${told()}`, { cause: error });
      }
      if (!running()) throw new Error(`the sidecar ended before ${what}; ${told()}`);
      return status as unknown as Status;
    },
    async died() {
      const timeout = AbortSignal.timeout(20_000);
      const [code, signal] = await Promise.race([
        ended,
        once(timeout, "abort").then(() => {
          throw new Error(`the sidecar did not come to its crash point; its log:\n${log}`);
        }),
      ]);
      if (signal !== "SIGKILL") throw new Error(`the sidecar ended by itself (${code ?? signal}):\n${log}`);
    },
    kill,
  };
}
