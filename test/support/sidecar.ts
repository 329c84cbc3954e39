/** A sidecar in the test's own process, beside a real standby. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import pino from "pino";
import { onTestFinished } from "vitest";
import { afterPredecessor } from "../../src/cli/predecessor.ts";
import type { Selection } from "../../src/domain/choice.ts";
import type { Status } from "../../src/domain/status.ts";
import { openJournal } from "../../src/journal/store.ts";
import { systemClock } from "../../src/observe/clock.ts";
import { type ConnInfo, parseConnInfo } from "../../src/pg/conninfo.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { runLoop } from "../../src/sync/loop.ts";
import { Sidecar, type SidecarOptions } from "../../src/sync/sidecar.ts";
import { eventually } from "./wait.ts";

export interface TestSidecar {
  sidecar: Sidecar;
  stateDirectory: string;
  /** The newest status; null before the first cycle. */
  readonly status: Status | null;
  /** Every status so far. */
  readonly history: readonly Status[];
  /** The sentences logged so far. */
  readonly log: string[];
  /** Waits until the status fits. */
  until(what: string, fits: (status: Status) => boolean, timeoutMs?: number): Promise<Status>;
  /** Waits until the slot is ready, or stands as `protection`. */
  untilSlot(name: string, ...protections: string[]): Promise<Status>;
  stop(): Promise<void>;
}

export interface TestSidecarOptions
  extends Partial<Omit<SidecarOptions, "journal" | "signal" | "standbyConn" | "onStatus">> {
  stateDirectory?: string;
  selection?: Selection;
  dsn?: string;
  /** Instead of `primary`, where that is one host. */
  primaryConn?: ConnInfo | null;
  watchDataDirectory?: boolean;
}

/** A folder that is gone after the test. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), "pg-slotsync-state-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts a sidecar for a standby; it stops with the test. By default every slot is a failover slot. */
export async function startSidecar(
  standby: PgServer,
  options: TestSidecarOptions = {},
): Promise<TestSidecar> {
  const {
    stateDirectory = temporaryDirectory(),
    dsn = standby.dsn(),
    watchDataDirectory = true,
    primaryConn = null,
    ...rest
  } = options;
  const journal = await openJournal(stateDirectory, { now: Date.now, randomId: () => randomHex() });
  const stopping = new AbortController();
  const log: string[] = [];
  let status: Status | null = null;
  const history: Status[] = [];
  const sidecar = new Sidecar({
    selection: { include: [{ nameLike: "%" }], exclude: [] },
    policy: {
      guardDatabases: "auto",
      duty: 0.05,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
    },
    nap: { minMs: 200, maxMs: 30_000 },
    timeouts: { connectMs: 2_000, statementMs: 10_000, answerMs: 12_000 },
    primary: { dsn: primaryConn && { hosts: [primaryConn], attrs: null }, patroniUrl: null },
    dataDirectory: watchDataDirectory ? standby.dataDir : null,
    stateDirectory,
    restart: null,
    finishConnections: 4,
    applicationName: `pg-slotsync test ${process.pid}`,
    log: pino({ level: "debug" }, { write: (line: string) => log.push(line.trim()) }),
    clock: systemClock(),
    ...rest,
    standbyConn: parseConnInfo(dsn),
    journal,
    signal: stopping.signal,
    onStatus: (next) => {
      status = next;
      history.push(next);
    },
  });
  let failure: unknown = null;
  const running = afterPredecessor(() => runLoop(sidecar), stopping.signal).catch((error: unknown) => {
    failure = error;
  });
  const stop = async () => {
    stopping.abort();
    await running;
    await sidecar.close();
  };
  onTestFinished(stop);
  const until = async (what: string, fits: (status: Status) => boolean, timeoutMs = 45_000) => {
    try {
      await eventually(() => failure !== null || (status !== null && fits(status)), { what, timeoutMs });
    } catch (error) {
      throw new Error(`${String(error)}; last status: ${JSON.stringify(status)}`, { cause: error });
    }
    if (failure) throw failure;
    return status as unknown as Status;
  };
  return {
    sidecar,
    stateDirectory,
    get status() {
      return status;
    },
    log,
    history,
    until,
    untilSlot: (name, ...protections) =>
      until(`slot "${name}" ${protections.join("/") || "ready"}`, ({ slots }) =>
        slots.some(
          (slot) =>
            slot.name === name &&
            (protections.length > 0
              ? protections.includes(slot.protection)
              : ["synced", "guarded"].includes(slot.protection)),
        ),
      ),
    stop,
  };
}

function randomHex(): string {
  return Math.floor(Math.random() * 0xffffffff)
    .toString(16)
    .padStart(8, "0");
}
