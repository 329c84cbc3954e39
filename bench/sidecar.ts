/** pg-slotsync as it is run: a process of its own beside the standby, seen through its journal and /proc. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { Proof } from "../src/domain/journal.ts";
import { type Lsn, parseLsn } from "../src/domain/lsn.ts";
import { isProven } from "../src/domain/proof.ts";
import type { PgServer } from "../src/sandbox/server.ts";
import { peakRssMiB, processCpuMs } from "./cpu.ts";

const MAIN = path.join(path.dirname(import.meta.dirname), "dist", "main.js");

interface SlotMemo {
  /** The position to which a promotion now would bring the slot. */
  position: Lsn | null;
  protection: string;
}

export interface JournalMemo {
  phase: string;
  observedAt: number;
  slots: Map<string, SlotMemo>;
  /** Two a database on 12 to 15. */
  guards: { name: string; proven: boolean }[];
  finish: { complete: boolean; durationMs: number } | null;
}

export class SidecarProcess {
  readonly #child: ChildProcess;
  readonly #journalFile: string;
  readonly #logFile: string;
  #stamp = "";
  #memo: JournalMemo | null = null;

  private constructor(child: ChildProcess, journalFile: string, logFile: string) {
    this.#child = child;
    this.#journalFile = journalFile;
    this.#logFile = logFile;
  }

  /** Starts one for a standby, at default settings, protecting every slot. */
  static start(standby: PgServer): SidecarProcess {
    const directory = path.join(standby.workspace.dir, "sidecar");
    mkdirSync(directory, { recursive: true });
    const configFile = path.join(directory, "slotsync.json");
    const config = {
      standby: { dsn: standby.dsn(), data_directory: standby.dataDir },
      slots: { include: [{ name_like: "%" }] },
      state_directory: path.join(directory, "state"),
    };
    // YAML, for every JSON is
    writeFileSync(configFile, JSON.stringify(config));
    const logFile = path.join(directory, "log");
    const log = openSync(logFile, "a");
    const child = spawn(process.execPath, [MAIN, "run", "--config", configFile], {
      cwd: directory,
      stdio: ["ignore", log, log],
    });
    process.once("exit", () => child.kill("SIGKILL"));
    return new SidecarProcess(child, path.join(directory, "state", "journal.json"), logFile);
  }

  get pid(): number {
    if (this.#child.exitCode !== null || this.#child.pid === undefined)
      throw new Error(`the sidecar has ended:\n${this.logTail()}`);
    return this.#child.pid;
  }

  cpuMs(): number {
    return processCpuMs(this.pid);
  }

  peakRssMiB(): number {
    return peakRssMiB(this.pid);
  }

  /** The journal as it is on disk now: what a sidecar that dies at this moment would finish a promotion from. */
  journal(): JournalMemo | null {
    const stat = statSync(this.#journalFile, { throwIfNoEntry: false });
    if (!stat) return null;
    const stamp = `${stat.ino} ${stat.mtimeMs}`;
    if (stamp === this.#stamp) return this.#memo;
    this.#stamp = stamp;
    const { body } = JSON.parse(readFileSync(this.#journalFile, "utf8")) as { body: JournalBody };
    this.#memo = {
      phase: body.phase,
      observedAt: body.observedAt,
      finish: body.finish,
      guards: [...body.guards, ...body.lowGuards].map(({ name, state, proof }) => ({
        name,
        proven: state === "owned" && isProven(proof),
      })),
      slots: new Map(
        body.slots.map(({ name, primaryConfirmedFlushLsn: lsn, protection }) => [
          name,
          { position: lsn === null ? null : parseLsn(lsn), protection },
        ]),
      ),
    };
    return this.#memo;
  }

  /** The end of what it has logged, for a figure that wants explaining. */
  logTail(lines = 12): string {
    return readFileSync(this.#logFile, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGTERM");
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 5_000);
    await ended;
    clearTimeout(timer);
  }
}

interface GuardBody {
  name: string;
  state: string;
  proof: Proof;
}

interface JournalBody {
  phase: string;
  observedAt: number;
  guards: GuardBody[];
  lowGuards: GuardBody[];
  slots: { name: string; primaryConfirmedFlushLsn: string | null; protection: string }[];
  finish: JournalMemo["finish"];
}
