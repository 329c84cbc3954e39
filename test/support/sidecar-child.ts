// Run by a test as a process of its own: a sidecar that can be killed for good. The product has no hooks for that; where it is to
// die is found here, by counting what it writes to its journal and what it sends to a server.
import { constants } from "node:fs";
import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import pg from "pg";
import pino from "pino";
import type { JournalState } from "../../src/domain/journal.ts";
import { openJournal } from "../../src/journal/store.ts";
import { systemClock } from "../../src/observe/clock.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { runLoop } from "../../src/sync/loop.ts";
import { Sidecar } from "../../src/sync/sidecar.ts";
import type { ChildOptions, CrashPoint } from "./sidecar-process.ts";

const { dsn, dataDirectory, stateDirectory, crash } = JSON.parse(process.argv[2] ?? "{}") as ChildOptions;

const die = () => process.kill(process.pid, "SIGKILL");

/** Calls `run`, and dies before or after it when it is the one. */
function dyingAt<A extends unknown[], R>(
  point: CrashPoint | null,
  fits: (...args: A) => boolean,
  run: (...args: A) => Promise<R>,
): (...args: A) => Promise<R> {
  let count = 0;
  return async (...args) => {
    if (!point || !fits(...args)) return run(...args);
    count += 1;
    if (count !== point.nth) return run(...args);
    if (point.when === "before") die();
    const result = await run(...args);
    if (point.when === "after") die();
    return result;
  };
}

if (crash?.at === "statement") {
  const pattern = new RegExp(crash.matching);
  const query = pg.Client.prototype.query as (...args: unknown[]) => unknown;
  const textOf = (statement: unknown) => {
    if (typeof statement === "string") return statement;
    const { text = "", values = [] } = statement as { text?: string; values?: unknown[] };
    return `${text} -- ${JSON.stringify(values)}`;
  };
  const wrapped = dyingAt(
    crash,
    (_client: pg.Client, statement: unknown) => pattern.test(textOf(statement)),
    async (client, statement) => query.call(client, statement),
  );
  pg.Client.prototype.query = function (this: pg.Client, statement: unknown) {
    return wrapped(this, statement);
  } as typeof pg.Client.prototype.query;
}

if (crash?.at === "file") {
  const pattern = new RegExp(crash.matching);
  const { link, mkdir, open, rename, rm } = fs;
  const dying = <R>(what: string, run: () => Promise<R>) => dyingAtFile(what, run as () => Promise<unknown>);
  const dyingAtFile = dyingAt(
    crash,
    (what: string, _run: () => Promise<unknown>) => pattern.test(what),
    (_what, run) => run(),
  );
  Object.assign(fs, {
    mkdir: (...args: Parameters<typeof mkdir>) => dying(`mkdir ${args[0]}`, () => mkdir(...args)),
    rename: (...args: Parameters<typeof rename>) =>
      dying(`rename ${args[0]} ${args[1]}`, () => rename(...args)),
    link: (...args: Parameters<typeof link>) => dying(`link ${args[0]} ${args[1]}`, () => link(...args)),
    rm: (...args: Parameters<typeof rm>) => dying(`remove ${args[0]}`, () => rm(...args)),
    open: (...args: Parameters<typeof open>) =>
      dying(`${creates(args[1]) ? "create" : "open"} ${args[0]}`, () => open(...args)),
  });
  // for what has imported them by name
  syncBuiltinESMExports();
}

function creates(flags: unknown): boolean {
  return typeof flags === "number" && (flags & constants.O_CREAT) !== 0;
}

const stopping = new AbortController();
process.once("SIGTERM", () => stopping.abort());
process.once("disconnect", () => process.exit());

const journal = await openJournal(stateDirectory, {
  now: Date.now,
  randomId: () => process.pid.toString(16).padStart(8, "0"),
});
const save = journal.save.bind(journal);
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
  primary: { dsn: null, patroniUrl: null },
  stateDirectory,
  restart: null,
  finishConnections: 1,
  applicationName: `pg-slotsync test ${process.pid}`,
  log: pino(pino.destination(2)),
  clock: systemClock(),
  standbyConn: parseConnInfo(dsn),
  dataDirectory,
  journal: {
    ...journal,
    save: crash?.at === "save" ? dyingAt(crash, (_state: JournalState) => true, save) : save,
  },
  signal: stopping.signal,
  onStatus: (status) => process.send?.(status),
});
await runLoop(sidecar);
await sidecar.close();
process.disconnect?.();
