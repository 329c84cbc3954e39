/**
 * Restarting the standby by the operator's command, so that it loads what is staged. At most one at a time, here and among the sidecars
 * of one primary; beside the cycles, which go on as soon as the standby is back. What to do is decided in domain/restart.ts.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { JournalState } from "../domain/journal.ts";
import { isProven } from "../domain/proof.ts";
import { decideRestart, failedRestart, type RestartPolicy, type RestartRecord } from "../domain/restart.ts";
import { isStandby } from "../observe/standby.ts";
import { describeError } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { TRY_RESTART_LOCK } from "../pg/sql.ts";
import { runRestartCommand } from "../restart/command.ts";
import type { RestartWindow } from "../restart/window.ts";
import type { Sidecar } from "./sidecar.ts";

export interface RestartOptions {
  policy: RestartPolicy;
  /** Null unless the mode is "window". */
  window: RestartWindow | null;
  command: readonly string[];
  timeoutMs: number;
}

/** What kept the command from being tried is asked again after this time, … */
const TRY_AGAIN_MS = 30_000;
/** … and the lock that another sidecar has, after this. */
const LOCK_AGAIN_MS = 3_000;
/** How often it is seen whether the standby is back. */
const BACK_PULSE_MS = 250;

export class RestartKeeper {
  readonly #options: RestartOptions;
  #running: Promise<void> | null = null;
  #notBefore = 0;

  constructor(options: RestartOptions) {
    this.#options = options;
  }

  get running(): boolean {
    return this.#running !== null;
  }

  /** Called after each cycle, with what a restart would add and whether more is about to be staged. */
  consider(sidecar: Sidecar, staged: readonly string[], busy: boolean): void {
    if (this.#running !== null || sidecar.now() < this.#notBefore) return;
    const last = withoutHelped(sidecar.journal, staged);
    if (last !== sidecar.journal.restart) sidecar.journal = { ...sidecar.journal, restart: last };
    const { policy, window } = this.#options;
    const decision = decideRestart({
      policy,
      staged,
      last,
      window: window?.open ?? null,
      now: sidecar.options.clock.wall(),
      inRecovery: sidecar.lastLook.view.inRecovery,
      promoting: sidecar.journal.phase !== "standby",
      busy,
    });
    if (!decision.restart) return;
    this.#running = this.#restart(sidecar, decision.names, decision.window)
      .catch((error: unknown) => {
        this.#notBefore = sidecar.now() + TRY_AGAIN_MS;
        sidecar.log.error(`the standby was not restarted: ${describeError(error)}`);
      })
      .finally(() => {
        this.#running = null;
      });
  }

  async #restart(sidecar: Sidecar, names: string[], window: number | null): Promise<void> {
    const session = await this.#lock(sidecar);
    if (session === null) {
      this.#notBefore = sidecar.now() + LOCK_AGAIN_MS;
      return;
    }
    try {
      // asked once more at the last moment: a primary is never restarted
      const control = await sidecar.standby.control();
      if (sidecar.journal.phase !== "standby" || !(await isStandby(control))) return;
      const record: RestartRecord = {
        at: sidecar.options.clock.wall(),
        names,
        outcome: "running",
        detail: null,
        failures: 0,
        retryAt: null,
        window,
      };
      const before = sidecar.journal.restart;
      const noteFailed = async (outcome: "failed" | "not_started", detail: string) => {
        const failed = failedRestart(record, outcome, detail, before, sidecar.options.clock.wall());
        await sidecar.record({ ...sidecar.journal, restart: failed });
        const again = new Date(failed.retryAt ?? 0).toISOString();
        sidecar.log.error(`the restart command failed: ${detail}. It is not tried again before ${again}`);
      };
      await sidecar.record({ ...sidecar.journal, restart: record });
      sidecar.log.info({ names }, `restarting the standby for ${names.length} staged slot(s)`);
      const since = sidecar.lastLook.view.feedbackSession;
      const { command, timeoutMs } = this.#options;
      const { signal } = sidecar.options;
      const result = await runRestartCommand(command, { timeoutMs, log: sidecar.log, signal }).catch(
        async (error: unknown) => {
          if (signal.aborted) throw error;
          // nothing was interrupted
          await noteFailed("not_started", describeError(error));
          return null;
        },
      );
      if (result === null) return;
      const failure = result.timedOut
        ? `it took longer than ${timeoutMs / 1_000} s`
        : result.code === 0
          ? null
          : `it ended with ${result.signal ?? `exit code ${result.code}`}`;
      if (failure !== null) return await noteFailed("failed", failure);
      await sidecar.record({ ...sidecar.journal, restart: { ...record, outcome: "done" } });
      await this.#awaitBack(sidecar, since);
    } finally {
      await session.close();
    }
  }

  /** Held until the standby is back: another sidecar's standby is not taken down meanwhile. Null while another has it. */
  async #lock(sidecar: Sidecar): Promise<PgSession | null> {
    const session = await sidecar.primary.open(sidecar.lastLook.primaryConninfo, "restart", null, true);
    const [row] = await session.query<{ locked: boolean }>(TRY_RESTART_LOCK);
    if (row?.locked) return session;
    await session.close();
    sidecar.log.info("another standby of this primary is being restarted: this one's turn comes later");
    return null;
  }

  async #awaitBack(sidecar: Sidecar, before: string): Promise<void> {
    const until = sidecar.now() + this.#options.timeoutMs;
    const { signal } = sidecar.options;
    while (!signal.aborted && sidecar.now() < until) {
      const { view } = sidecar.lastLook;
      if (view.streaming && view.feedbackSession !== before) return;
      await delay(BACK_PULSE_MS);
    }
  }

  close(): void {
    this.#options.window?.close();
  }
}

/**
 * A name counts as one that the last restart did not help until its slot is proven: or it would be restarted for without end. Also of
 * one that has been left "running": where a restart of the standby takes the sidecar with it, all of them are.
 */
function withoutHelped(journal: JournalState, staged: readonly string[]): RestartRecord | null {
  const last = journal.restart;
  if (last === null) return null;
  const records = [
    ...journal.slots.values(),
    ...Object.values(journal.guards),
    ...Object.values(journal.lowGuards),
  ];
  const helped = new Set(
    records.filter(({ name, proof }) => !staged.includes(name) && isProven(proof)).map(({ name }) => name),
  );
  const names = last.names.filter((name) => !helped.has(name));
  return names.length === last.names.length ? last : { ...last, names };
}
