import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import type { PgServer } from "../../src/sandbox/server.ts";

export interface WriterOptions {
  /** how many connections write at once; 8 when left out */
  connections?: number;
  /** the table, made when it is not there, with columns id (the row's), writer, and filler; `written` when left out */
  table?: string;
  database?: string;
  /** at most this many rows a transaction; 4 when left out */
  rowsPerTransaction?: number;
  /** at most this long between two statements, so that transactions overlap; 15 ms when left out */
  maxPauseMs?: number;
  /** this part of the transactions is rolled back; 0.1 when left out */
  rollbackRatio?: number;
  fillerBytes?: number;
  /** makes the choices (not the timing) repeatable */
  seed?: number;
}

/** Writers at work, and what they know about their rows. */
export interface Writers {
  /** rows whose COMMIT was acknowledged: these must not be lost on the server that acknowledged them */
  readonly committed: ReadonlySet<number>;
  /** rows whose connection broke during COMMIT: they may be there or not */
  readonly unknown: ReadonlySet<number>;
  /** rows that were rolled back: these must never be seen */
  readonly rolledBack: ReadonlySet<number>;
  readonly seed: number;
  /** from now on write to another server, as clients do after a failover */
  retarget(server: PgServer): void;
  /** resolves when the count of committed rows has grown by this many */
  waitForCommits(more: number): Promise<void>;
  /** lets the transactions end and disconnects */
  stop(): Promise<void>;
}

/**
 * Starts connections that write overlapping transactions until stopped. When a server dies they keep trying to
 * connect, so that it may be killed, restarted or replaced under them.
 */
export async function startWriters(server: PgServer, options: WriterOptions = {}): Promise<Writers> {
  const { table = "written", database = "postgres", connections = 8 } = options;
  const { seed = Math.floor(Math.random() * 2 ** 31) } = options;
  await server.query(
    `create table if not exists ${table} (id bigint primary key, writer integer not null, filler text)`,
    [],
    database,
  );
  const stopping = new AbortController();
  const state: State = {
    server,
    database,
    table,
    rowsPerTransaction: options.rowsPerTransaction ?? 4,
    maxPauseMs: options.maxPauseMs ?? 15,
    rollbackRatio: options.rollbackRatio ?? 0.1,
    filler: "x".repeat(options.fillerBytes ?? 20),
    stopped: stopping.signal,
    nextId: 1,
    committed: new Set(),
    unknown: new Set(),
    rolledBack: new Set(),
  };
  const loops = Array.from({ length: connections }, (_, index) =>
    keepWriting(state, index, randomFrom(seed + index)),
  );
  return {
    committed: state.committed,
    unknown: state.unknown,
    rolledBack: state.rolledBack,
    seed,
    retarget(to) {
      state.server = to;
    },
    async waitForCommits(more) {
      const goal = state.committed.size + more;
      while (state.committed.size < goal && !state.stopped.aborted) await sleep(5);
    },
    async stop() {
      stopping.abort();
      await Promise.all(loops);
    },
  };
}

interface State {
  server: PgServer;
  database: string;
  table: string;
  rowsPerTransaction: number;
  maxPauseMs: number;
  rollbackRatio: number;
  filler: string;
  stopped: AbortSignal;
  nextId: number;
  committed: Set<number>;
  unknown: Set<number>;
  rolledBack: Set<number>;
}

export type Random = () => number;

async function keepWriting(state: State, writer: number, random: Random): Promise<void> {
  while (!state.stopped.aborted) {
    const { server } = state;
    let client: pg.Client | undefined;
    try {
      // a frozen server answers nothing: give up on it, so that stop() ends
      client = await server.connect(state.database, "postgres", { query_timeout: 5_000 });
      while (!state.stopped.aborted && state.server === server)
        await writeTransaction(state, client, writer, random);
    } catch {
      // the server is down or went down: what that means for the rows is recorded where it happened
      await sleep(50);
    } finally {
      // not awaited: a frozen server does not answer to this either
      client?.end().catch(() => {});
    }
  }
}

async function writeTransaction(
  state: State,
  client: pg.Client,
  writer: number,
  random: Random,
): Promise<void> {
  const ids: number[] = [];
  // until COMMIT is sent, nothing can have been committed
  let outcome = state.rolledBack;
  try {
    await client.query("begin");
    const rows = 1 + Math.floor(random() * state.rowsPerTransaction);
    for (let row = 0; row < rows; row++) {
      const id = state.nextId++;
      ids.push(id);
      await client.query(`insert into ${state.table} values ($1, $2, $3)`, [id, writer, state.filler]);
      await sleep(random() * state.maxPauseMs);
    }
    if (random() < state.rollbackRatio) {
      await client.query("rollback");
      return;
    }
    outcome = state.unknown;
    await client.query("commit");
    outcome = state.committed;
  } finally {
    for (const id of ids) outcome.add(id);
  }
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
