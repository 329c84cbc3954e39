/** What goes on around a crash, and how to tell what a slot owes after it. */
import { setTimeout as sleep } from "node:timers/promises";
import { onTestFinished } from "vitest";
import type { FinishedSlot } from "../../src/domain/finish.ts";
import { type Lsn, minLsn, parseLsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { type Change, createLogicalSlot } from "./consumer.ts";
import { logRunningTransactions } from "./wal.ts";
import type { Random } from "./writers.ts";

/** Whatever the others do, the server may be killed under them. */
export type Stoppable = { stop: () => Promise<unknown> };

export type Maker = Stoppable & { made: string[] };

/** True for one that was left behind its position, where advancing it would have let go of catalog rows: it sends changes again. */
export function isShort({ detail }: FinishedSlot): boolean {
  return detail?.includes("it was left at") ?? false;
}

/** Where a slot has to start: the position last recorded, or the end of what this node has. */
export function startOf(slot: FinishedSlot, end: Lsn): Lsn {
  if (isShort(slot)) return parseLsn(slot.positionLsn ?? "");
  return minLsn(parseLsn(slot.lastSeenLsn ?? ""), end);
}

/** The transactions that were committed past a position, and no later than `end`. */
export function committedAfter(changes: readonly Change[], position: Lsn, end?: Lsn): Change[] {
  const result: Change[] = [];
  let transaction: Change[] = [];
  for (const change of changes) {
    transaction.push(change);
    if (!change.data.startsWith("COMMIT")) continue;
    const committed = parseLsn(change.lsn);
    if (committed > position && (end === undefined || committed <= end)) result.push(...transaction);
    transaction = [];
  }
  return result;
}

/** A transaction that has run the statement and stays open until it is told to commit, or its server dies. */
export async function openTransaction(
  server: PgServer,
  statement: string,
): Promise<{ commit: () => Promise<void> }> {
  const client = await server.connect();
  onTestFinished(() => client.end().catch(() => {}));
  await client.query("begin");
  await client.query(statement);
  return { commit: async () => void (await client.query("commit")) };
}

/** Makes slots now and then. */
export function makeSlots(primary: PgServer, random: Random): Maker {
  const made: string[] = [];
  return {
    made,
    ...repeatedly(async () => {
      await sleep(random() * 300);
      const name = `late_${made.length}`;
      await createLogicalSlot(primary, name);
      made.push(name);
    }),
  };
}

/** What goes on in a database besides: schema changes, catalog vacuum, checkpoints, transactions that stay open for long. */
export function disturb(primary: PgServer, random: Random): Stoppable {
  let table = 0;
  return repeatedly(async () => {
    await sleep(random() * 150);
    const choice = random();
    table += 1;
    if (choice < 0.3) {
      await primary.query(`create table scratch_${table} as select 1 as a`);
      await primary.query(`drop table scratch_${table}`);
    } else if (choice < 0.5) await primary.query("vacuum pg_catalog.pg_class, pg_catalog.pg_attribute");
    else if (choice < 0.7) await primary.query("checkpoint");
    else if (choice < 0.85) await logRunningTransactions(primary);
    else
      await primary.query(`create table scratch_${table} as select pg_catalog.pg_sleep(${random() * 0.3})`);
  });
}

/** The standby receives but does not replay for a while; its promotion ends that. */
export function holdBack(standby: PgServer, random: Random): Stoppable {
  return repeatedly(async () => {
    await sleep(random() * 300);
    await standby.query("select pg_catalog.pg_wal_replay_pause()");
    await sleep(random() * 300);
    await standby.query("select pg_catalog.pg_wal_replay_resume()");
  });
}

/** Until it is stopped or its server is gone. */
function repeatedly(work: () => Promise<void>): Stoppable {
  let stopped = false;
  const loop = (async () => {
    try {
      while (!stopped) await work();
    } catch {
      // the server is gone
    }
  })();
  return {
    stop: () => {
      stopped = true;
      return loop;
    },
  };
}

/** How many of the slots made were never seen by the sidecar. */
export function countUnseen(commotion: readonly Stoppable[], slots: readonly FinishedSlot[]): number {
  const made = commotion.flatMap((each) => ("made" in each ? (each as Maker).made : []));
  return made.filter((name) => !slots.some((slot) => slot.name === name)).length;
}
