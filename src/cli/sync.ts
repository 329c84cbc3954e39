/** `slotsync sync`: bring everything that can be brought, once, and exit. */

import type { Command } from "commander";
import type { Logger } from "pino";
import type { Config } from "../config/load.ts";
import { type Action, describeAction } from "../domain/action.ts";
import { type Answer, answer, isCertain } from "../domain/assess.ts";
import { createsOnStandby } from "../domain/capability.ts";
import { formatLsn } from "../domain/lsn.ts";
import type { Status } from "../domain/status.ts";
import { LockedError } from "../journal/lock.ts";
import { createLogger } from "../log/logger.ts";
import { describeError } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { assess } from "../sync/assess.ts";
import { hasNewGuard } from "../sync/births.ts";
import { runCycle } from "../sync/cycle.ts";
import { StandbyLockedError } from "../sync/links.ts";
import type { Sidecar } from "../sync/sidecar.ts";
import { CommandError, EXIT } from "./exit.ts";
import { formatStatus } from "./format-status.ts";
import type { Output } from "./output.ts";
import { afterPredecessor } from "./predecessor.ts";
import { configOf, parseSeconds, standbyName } from "./settings.ts";
import { Settling } from "./settling.ts";
import { buildSidecar, holdState } from "./state.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { printable } from "./terminal.ts";

interface SyncOptions {
  dryRun?: boolean;
  json?: boolean;
  timeout: number;
}

export function addSync(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("sync")
    .description("bring everything that can be brought to this standby once, and exit")
    .option("--dry-run", "only print what would be done; changes nothing, works beside a running sidecar")
    .option("--timeout <seconds>", "how long to wait for what has been started", parseSeconds, 60)
    .option("--json", "print {status} as JSON, of a dry run {actions, status}")
    .addHelpText(
      "after",
      `
For a look before the sidecar is installed, or right before a planned switchover. Between two runs nobody keeps the
slots current or finishes a promotion: that is what run is for (or sync by a timer, and finish at a promotion).

Exit codes: 0 every failover slot is ready now; 1 not, the output says why, or a sidecar is running already; 2 cannot
tell, or the configuration or the command line is wrong.

Examples:
  slotsync sync -c slotsync.yaml --dry-run
  slotsync sync -c slotsync.yaml && echo "switch over"`,
    )
    .action(async (options: SyncOptions, command: Command) => {
      const config = configOf(command, output);
      setExit(await (options.dryRun ? dryRun(config, options, output) : sync(config, options, output)));
    });
}

async function dryRun(config: Config, options: SyncOptions, output: Output): Promise<number> {
  const stopping = stopOnSignals();
  try {
    const reading = await assess(config, "sync", stopping.signal, (warning) =>
      output.tell(`warning: ${warning}`),
    );
    if (stopping.signal.aborted) return signalExit(stopping);
    const standby = standbyName(config);
    if (options.json) {
      output.json({ actions: reading.actions.map(plainAction), status: { standby, ...reading.status } });
    } else {
      const lines = reading.actions.map((action) => `would ${printable(describeAction(action))}\n`);
      const none = reading.certain && reading.status.source === "live" ? "nothing to do\n" : "";
      output.print(lines.join("") || none);
      output.print(`\n${formatStatus({ standby, ...reading }, Date.now(), output.paint)}`);
    }
    return answer(reading).code;
  } finally {
    stopping.release();
  }
}

/** An action as JSON takes it. */
export function plainAction(action: Action): Record<string, unknown> {
  const fields = Object.entries(action).map(([key, value]) => [
    key,
    typeof value === "bigint" ? formatLsn(value) : value,
  ]);
  return { ...(Object.fromEntries(fields) as object), description: describeAction(action) };
}

async function sync(config: Config, options: SyncOptions, output: Output): Promise<number> {
  const log = createLogger({
    level: config.log.level,
    format: "pretty",
    fd: 2,
    standby: standbyName(config),
  });
  const stopping = stopOnSignals();
  try {
    const { lock, journal } = await holdState(config, "sync", log, () => stopping.stop()).catch(explainLock);
    try {
      const latest: { status: Status | null } = { status: null };
      const sidecar = buildSidecar({
        config,
        command: "sync",
        journal,
        log,
        signal: stopping.signal,
        onStatus: (status) => {
          latest.status = status;
        },
      });
      try {
        await settle(sidecar, latest, options.timeout * 1_000, config.nap.minMs, log);
      } finally {
        await sidecar.close();
      }
      return tell(config, latest.status, options, output);
    } finally {
      await lock.release();
    }
  } catch (error) {
    if (stopping.by !== null) return signalExit(stopping);
    if (error instanceof CommandError || error instanceof StandbyLockedError) throw error;
    throw new CommandError(`cannot tell: ${describeError(error)}`, EXIT.cannotTell, { cause: error });
  } finally {
    stopping.release();
  }
}

function explainLock(error: unknown): never {
  if (!(error instanceof LockedError)) throw error;
  throw new CommandError(
    `${error.message}. A running sidecar syncs by itself: see slotsync status; slotsync sync --dry-run works beside it`,
    EXIT.no,
    { cause: error },
  );
}

/** Runs cycles until what they started has ended and nothing more comes of them. */
export async function settle(
  sidecar: Sidecar,
  latest: { status: Status | null },
  timeoutMs: number,
  napMs: number,
  log: Logger,
  only?: (action: Action) => boolean,
): Promise<void> {
  const { signal } = sidecar.options;
  await afterPredecessor(() => sidecar.standby.control(), signal);
  const look = await sidecar.look();
  if (!look.view.inRecovery) throw notAStandby();
  sidecar.lastLook = look;
  const settling = new Settling();
  const until = performance.now() + timeoutMs;
  for (;;) {
    // what ends in the course of a cycle is seen by the next one
    const underWay = isUnderWay(sidecar);
    const result = await runCycle(sidecar, only);
    if (result.kind === "promoted") throw notAStandby();
    if (latest.status && settling.isSettled(latest.status, result.changed, underWay || isUnderWay(sidecar)))
      return;
    if (performance.now() > until) {
      log.warn(`what was started has not ended within ${timeoutMs / 1_000} s: see the reasons`);
      return;
    }
    await sleep(napMs, signal);
    signal.throwIfAborted();
  }
}

function isUnderWay(sidecar: Sidecar): boolean {
  const { applier, lastLook } = sidecar;
  const { view } = lastLook;
  // where the primary can be asked for what a new guard needs, that is waited for: until then it protects nothing
  const isNew = createsOnStandby(view.serverVersionNum) && hasNewGuard(sidecar, view);
  return isNew || applier.busyDatabases.size > 0 || applier.creatingGuards.size > 0 || applier.filesBusy;
}

function notAStandby(): CommandError {
  return new CommandError(
    "this node is a primary, there is nothing to bring to it. After a promotion: slotsync finish",
    EXIT.no,
  );
}

function tell(config: Config, status: Status | null, options: SyncOptions, output: Output): number {
  if (status === null) throw new CommandError("cannot tell: no cycle has ended", EXIT.cannotTell);
  const standby = standbyName(config);
  const certain = isCertain(status.problems);
  const result: Answer = answer({ status, certain });
  if (options.json) output.json({ status: { standby, ...status } });
  else output.print(formatStatus({ standby, status, certain, sidecar: null }, Date.now(), output.paint));
  return result.code;
}
