/**
 * The primary dies at random moments. `CRASH_ROUNDS` (20) says how often, `CRASH_SEED` repeats the choices of a run that failed (the
 * timing is the machine's own). At the end the counts are printed.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import type { FinishedSlot } from "../../src/domain/finish.ts";
import { type Lsn, minLsn, parseLsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { type Change, createLogicalSlot, insertedIds, repoint, subscribe } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { startReader } from "../support/reader.ts";
import { startSidecar } from "../support/sidecar.ts";
import { peek, sidecarSlots } from "../support/slots.ts";
import { eventually } from "../support/wait.ts";
import { type Random, randomFrom, startWriters } from "../support/writers.ts";

const ROUNDS = Number(process.env.CRASH_ROUNDS ?? 20);
const SEED = Number(process.env.CRASH_SEED ?? Math.floor(Math.random() * 1_000_000));
const seeds = Array.from({ length: ROUNDS }, (_, round) => SEED + round);

/** Whatever the others do, the server may be killed under them. */
type Stoppable = { stop: () => Promise<unknown> };

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  const totals = { rounds: 0, rows: 0, slots: 0, unseen: 0, lost: 0, repeated: 0, gaps: 0 };

  afterAll(() => {
    process.stdout.write(
      `\ncrash rounds on ${major} (CRASH_SEED=${SEED}): ${totals.rounds} rounds, ${totals.rows} rows, ${totals.slots} slots seen before the crash (${totals.unseen} younger), ${totals.lost} lost, ${totals.repeated} repeated, ${totals.gaps} subscribers ahead of the standby\n`,
    );
  });

  test.each(seeds)(
    "the primary is killed at a random moment, and no slot seen before loses a change (I1, I2, G2b; seed %i)",
    async (seed) => {
      const random = randomFrom(seed);
      const cluster = await startCluster({ major, subscriber: true });
      const { primary, standby, subscriber } = cluster;
      const sidecar = await startSidecar(standby);
      for (const server of [primary, subscriber])
        await server.query(
          "create table written (id bigint primary key, writer integer not null, filler text)",
        );
      await sidecar.until("the guard", ({ guards }) => guards.some((guard) => guard.confirmedFlushLsn));
      // made before the first row and never read: it owes every row, and tells in which order they were committed
      await createLogicalSlot(primary, "idle");
      await createLogicalSlot(primary, "busy");
      await sidecar.untilSlot("idle", "synced", "guarded");
      await sidecar.untilSlot("busy", "synced", "guarded");

      const writers = await startWriters(primary, { connections: 6, seed, maxPauseMs: 8 });
      const reader = await startReader(primary, { slot: "busy", table: "written" });
      const commotion = [
        reader,
        makeSlots(primary, random),
        disturb(primary, random),
        ...(random() < 0.25 ? [holdBack(standby, random)] : []),
      ];
      const subscribed = random() < 0.5;
      if (subscribed) await subscribe({ publisher: primary, subscriber, name: "sub1", tables: ["written"] });
      await sleep(100 + random() * 1_200);

      await primary.kill();
      const rows = writers.committed.size;
      await Promise.all([writers.stop(), ...commotion.map((each) => each.stop())]);
      standby.promote();
      const { finish } = await sidecar.until("the finishing step", ({ role }) => role === "primary");
      if (!finish) throw new Error("no gap report");
      expect(finish.complete, JSON.stringify(finish)).toBe(true);
      expect(await sidecarSlots(standby)).toEqual([]);

      const ids = (await standby.query<{ id: string }>("select id from written")).map(({ id }) => Number(id));
      const survived = new Set(ids);
      const everything = await peek(standby, "idle");
      expect(new Set(insertedIds(everything, "written")), "the idle slot sends every row").toEqual(survived);
      const end = parseLsn(finish.endOfWalLsn ?? "");

      const seen = finish.slots.filter((slot) => slot.lastSeenLsn !== null);
      for (const slot of seen.filter(({ plugin }) => plugin === "test_decoding")) {
        expect(["kept", "advanced", "materialised"], JSON.stringify(slot)).toContain(slot.outcome);
        expect(await peek(standby, slot.name), `"${slot.name}" sends what the primary would have`).toEqual(
          committedAfter(everything, startOf(slot, end)),
        );
      }

      const busy = insertedIds(await peek(standby, "busy"), "written");
      const lost = [...survived].filter((id) => !reader.taken.has(id) && !busy.includes(id));
      expect(lost, "rows that the reader never gets").toEqual([]);
      const repeated = busy.filter((id) => reader.taken.has(id)).length;

      if (subscribed) {
        await repoint(subscriber, "sub1", standby);
        await eventually(
          async () => {
            const got = await subscriber.query<{ id: string }>("select id from written");
            const present = new Set(got.map(({ id }) => Number(id)));
            return ids.every((id) => present.has(id));
          },
          { what: "the subscriber to have every row of the new primary" },
        );
      }

      totals.rounds += 1;
      totals.rows += rows;
      totals.slots += seen.length;
      totals.unseen += countUnseen(commotion, finish.slots);
      totals.lost += lost.length;
      totals.repeated += repeated;
      totals.gaps += finish.slots.filter((slot) => slot.confirmedBeyondEndBytes > 0).length;
    },
  );
});

/** Where a slot has to start: the position last recorded, or the end of what this node has. */
function startOf(slot: FinishedSlot, end: Lsn): Lsn {
  return minLsn(parseLsn(slot.lastSeenLsn ?? ""), end);
}

/** The transactions that were committed past a position. */
function committedAfter(changes: readonly Change[], position: Lsn): Change[] {
  const result: Change[] = [];
  let transaction: Change[] = [];
  for (const change of changes) {
    transaction.push(change);
    if (!change.data.startsWith("COMMIT")) continue;
    if (parseLsn(change.lsn) > position) result.push(...transaction);
    transaction = [];
  }
  return result;
}

type Maker = Stoppable & { made: string[] };

/** Makes slots now and then. */
function makeSlots(primary: PgServer, random: Random): Maker {
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
function disturb(primary: PgServer, random: Random): Stoppable {
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
    else if (choice < 0.85) await primary.query("select pg_catalog.pg_log_standby_snapshot()");
    else
      await primary.query(`create table scratch_${table} as select pg_catalog.pg_sleep(${random() * 0.3})`);
  });
}

/** The standby receives but does not replay for a while; its promotion ends that. */
function holdBack(standby: PgServer, random: Random): Stoppable {
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

function countUnseen(commotion: readonly Stoppable[], slots: readonly FinishedSlot[]): number {
  const made = commotion.flatMap((each) => ("made" in each ? (each as Maker).made : []));
  return made.filter((name) => !slots.some((slot) => slot.name === name)).length;
}
