/**
 * The sidecar as an operator runs it: `slotsync run --config …` in a process of its own, so that the demo shows the shipped command.
 * The same entry point runs as built (dist/main.js) and from source: our own loader options (tsx's) are passed on.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import type { JournalState } from "../domain/journal.ts";
import type { StandbyView } from "../domain/observation.ts";
import { buildStatus, type Status } from "../domain/status.ts";
import { readJournal } from "../journal/store.ts";
import type { PgServer } from "../sandbox/server.ts";

const COMMAND = [
  ...process.execArgv,
  fileURLToPath(new URL(`../main${path.extname(import.meta.url)}`, import.meta.url)),
];

export interface CheckAnswer {
  code: number;
  line: string;
}

export class SidecarProcess {
  readonly configFile: string;
  readonly logFile: string;
  readonly #stateDirectory: string;
  readonly #folder: string;
  readonly #child: ChildProcess;
  readonly #killNow: () => void;
  #stopping = false;

  /** Starts a sidecar beside the standby that looks after the slots whose name begins so. */
  constructor(standby: PgServer, slotPrefix: string) {
    this.#folder = path.join(standby.workspace.dir, "sidecar");
    this.#stateDirectory = path.join(this.#folder, "state");
    this.configFile = path.join(this.#folder, "slotsync.yaml");
    this.logFile = path.join(this.#folder, "log");
    mkdirSync(this.#folder);
    const config = {
      standby: { dsn: standby.dsn(), data_directory: standby.dataDir },
      slots: { include: [{ name_like: `${slotPrefix.replaceAll("_", "\\_")}%` }] },
      state_directory: this.#stateDirectory,
    };
    writeFileSync(this.configFile, stringify(config));
    const log = openSync(this.logFile, "a");
    this.#child = spawn(process.execPath, [...COMMAND, "run", "--config", this.configFile], {
      // within the work folder: should we be killed, whoever removes that folder finds and ends it too
      cwd: this.#folder,
      env: ownEnvironment(),
      stdio: ["ignore", log, log],
      // Ctrl-C in the terminal is for us, who then stop it
      detached: true,
    });
    closeSync(log);
    this.#child.on("error", () => {});
    this.#killNow = () => this.#child.kill("SIGKILL");
    process.once("exit", this.#killNow);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Throws when the process has ended by itself. */
  mustRun(): void {
    const { exitCode, signalCode } = this.#child;
    if (this.#stopping || (exitCode === null && signalCode === null)) return;
    throw new Error(`the sidecar ended (${signalCode ?? `exit code ${exitCode}`}): ${this.lastWords()}`);
  }

  /** What it has written down; null before its first cycle. */
  async journal(): Promise<JournalState | null> {
    this.mustRun();
    return readJournal(this.#stateDirectory);
  }

  /** The same as a status, together with what the standby shows when it is looked at. */
  async status(standby: Pick<StandbyView, "slots" | "files"> | null): Promise<Status | null> {
    const journal = await this.journal();
    return journal && buildStatus(journal, standby, [], "journal");
  }

  /** Runs `slotsync check`: its exit code and its answer. */
  check(): Promise<CheckAnswer> {
    return new Promise((resolve) => {
      execFile(
        process.execPath,
        [...COMMAND, "check", "--config", this.configFile],
        { cwd: this.#folder, env: ownEnvironment(), timeout: 20_000 },
        (error, stdout, stderr) => {
          const code = error ? Number(error.code ?? 2) : 0;
          resolve({ code, line: (stdout.trim() || stderr.trim()).split("\n")[0] ?? "" });
        },
      );
    });
  }

  /** The end of its log. */
  lastWords(): string {
    return readFileSync(this.logFile, "utf8").trimEnd().split("\n").slice(-5).join("\n");
  }

  /** Ends it, politely at first; resolves when it is gone. */
  async stop(): Promise<void> {
    this.#stopping = true;
    process.off("exit", this.#killNow);
    const { exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null || this.#child.pid === undefined) return;
    const exited = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGTERM");
    const timer = setTimeout(this.#killNow, 2_000);
    await exited;
    clearTimeout(timer);
  }
}

/** What is set for the user's own sidecar is not for this one. */
function ownEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SLOTSYNC_")));
}
