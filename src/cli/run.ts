/** `slotsync run`: the sidecar, until a signal ends it. */
import type { Command } from "commander";
import type { Logger } from "pino";
import type { LoadedConfig } from "../config/load.ts";
import { type HttpServer, startHttp } from "../http/server.ts";
import { StatusBoard } from "../http/status-board.ts";
import { createLogger } from "../log/logger.ts";
import { systemClock } from "../observe/clock.ts";
import { quietMs } from "../sync/from-config.ts";
import { runLoop } from "../sync/loop.ts";
import { startAudit } from "./audit.ts";
import { EXIT } from "./exit.ts";
import { afterPredecessor } from "./predecessor.ts";
import { settingsOf, standbyName, standbyTarget } from "./settings.ts";
import { buildSidecar, holdState } from "./state.ts";
import { stopOnSignals } from "./stopping.ts";
import { ownVersion } from "./version.ts";

/** A graceful end that takes longer than this is forced. */
const STOP_WITHIN_MS = 10_000;

export function addRun(program: Command, setExit: (code: number) => void): void {
  program
    .command("run")
    .description("keep the failover slots usable on this standby, until stopped")
    .addHelpText(
      "after",
      `
Runs beside the standby and survives promotions: it finishes them, idles while the node is a primary, and starts
over when it is a standby again. SIGTERM, SIGINT and SIGHUP end it gracefully, a second one at once.

Exit codes: 0 ended by a signal; 1 cannot start (another sidecar, state_directory, http.listen), or lost its
lock; 2 the configuration or the command line is wrong.

Examples:
  slotsync run --config /etc/slotsync.yaml
  slotsync run -c slotsync.yaml --log-level debug --set log.format=pretty
  SLOTSYNC_STANDBY_DSN=host=/run/postgresql SLOTSYNC_SLOTS_INCLUDE=name_like=% slotsync run`,
    )
    .action(async (_options, command: Command) => setExit(await run(settingsOf(command))));
}

async function run({ config, warnings, ignored }: LoadedConfig): Promise<number> {
  const log = createLogger({ ...config.log, fd: 1, standby: standbyName(config) });
  for (const warning of warnings) log.warn(warning);
  if (ignored.length > 0)
    log.debug(
      `variables of the environment that begin like ours and are none, ignored: ${ignored.join(", ")}`,
    );
  const stopping = stopOnSignals((name) => {
    log.info(`${name}: stopping`);
    setTimeout(() => {
      log.error(`could not stop within ${STOP_WITHIN_MS / 1_000} s: ending by force`);
      process.exit(EXIT.no);
    }, STOP_WITHIN_MS).unref();
  });
  let lost = false;
  const { lock, journal } = await holdState(config, "run", log, () => {
    lost = true;
    log.fatal(`the lock in ${config.stateDirectory} was lost, another process may work there: stopping`);
    stopping.stop();
  });
  try {
    const board = new StatusBoard(quietMs(config), systemClock().boot);
    const sidecar = buildSidecar({
      config,
      command: "run",
      journal,
      log,
      signal: stopping.signal,
      onStatus: (status) => board.post(status, sidecar.cycles),
    });
    let http: HttpServer | null = null;
    const { schedule } = config.audit;
    const audit = schedule === undefined ? null : startAudit(schedule, board, log);
    try {
      http = await maybeStartHttp(config, board, log);
      log.info(
        {
          version: ownVersion(),
          target: standbyTarget(config),
          stateDirectory: config.stateDirectory,
          http: http?.address ?? null,
        },
        `pg-slotsync ${ownVersion()} for the standby ${standbyTarget(config)}, journal in ${config.stateDirectory}${http ? `, HTTP on ${http.address}` : ""}`,
      );
      await afterPredecessor(() => runLoop(sidecar), stopping.signal).catch((error: unknown) => {
        if (!stopping.signal.aborted) throw error;
      });
    } finally {
      audit?.stop();
      await Promise.all([sidecar.close(), http?.close()]);
    }
  } finally {
    await lock.release();
    stopping.release();
  }
  if (lost) return EXIT.no;
  log.info("stopped");
  return EXIT.ok;
}

async function maybeStartHttp(
  config: LoadedConfig["config"],
  board: StatusBoard,
  log: Logger,
): Promise<HttpServer | null> {
  const { listen } = config.http;
  if (listen === undefined) return null;
  return startHttp({ listen, board, standby: standbyName(config), version: ownVersion(), log });
}
