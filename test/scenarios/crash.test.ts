/**
 * The primary dies at random moments. `CRASH_ROUNDS` says how often on each major (20 on those where all is made by SQL, 5 on those
 * where slots come by their files), `CRASH_SEED` repeats the choices of a run that failed (the timing is the machine's own). At the
 * end the counts are printed.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import { isFailoverReady } from "../../src/domain/protection.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import {
  committedAfter,
  countUnseen,
  disturb,
  holdBack,
  makeSlots,
  openTransaction,
  startOf,
} from "../support/commotion.ts";
import { createLogicalSlot, insertedIds, repoint, subscribe } from "../support/consumer.ts";
import { describeEach, FILE_MAJORS, fileMajors, testedMajors } from "../support/majors.ts";
import { startReader } from "../support/reader.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { peek, positionOf, sidecarSlots, slotsOf } from "../support/slots.ts";
import { hasGuard, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { randomFrom, startWriters } from "../support/writers.ts";

const SEED = Number(process.env.CRASH_SEED ?? Math.floor(Math.random() * 1_000_000));
const used = [...new Set([...fileMajors(), ...testedMajors()])];
const known = [...new Set([...FILE_MAJORS, 16, ...used])];

describeEach(known, used, (major) => {
  const byFiles = FILE_MAJORS.includes(major);
  const rounds = Number(process.env.CRASH_ROUNDS ?? (byFiles ? 5 : 20));
  const seeds = Array.from({ length: rounds }, (_, round) => SEED + round);
  const totals = { rounds: 0, rows: 0, slots: 0, unseen: 0, lost: 0, repeated: 0, gaps: 0 };

  afterAll(() => {
    if (totals.rounds === 0) return;
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
      for (const server of [primary, subscriber])
        await server.query(
          "create table written (id bigint primary key, writer integer not null, filler text)",
        );
      // "idle" is made before the first row and never read: it owes every row, and tells in which order they were committed
      const early = major === 11 || random() < 0.5 ? ["idle", "busy"] : ["idle"];
      const sidecar = byFiles ? await loadByRestart(primary, standby, early) : await startSidecar(standby);
      if (!byFiles) await sidecar.until("the guard", hasGuard);
      for (const name of ["idle", "busy"])
        if (!byFiles || !early.includes(name)) await createLogicalSlot(primary, name);
      const begun = await positionOf(primary, "busy");
      await sidecar.untilSlot("idle");
      // 12: one that comes after the guards may have to wait for its reader (advance_runs_ahead)
      if (major !== 12 || early.includes("busy")) await sidecar.untilSlot("busy");

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
      const open = random() < 0.5 ? await openTransaction(primary, rowOf(2)) : null;
      await sleep(100 + random() * 600);
      // else it is never known to have been committed
      if (random() < 0.5) await open?.commit();
      await sleep(random() * 600);

      await primary.kill();
      // on 11 nothing protects a slot before the next restart, on 12 not every one at once: what was called ready counts
      const called = sidecar.status?.slots.filter(({ protection }) => isFailoverReady(protection)) ?? [];
      const promisedAll = major > 12;
      const isPromised = (name: string) => promisedAll || called.some((slot) => slot.name === name);
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

      const there = await slotsOf(standby);
      const protectedOnes = finish.slots.filter(({ name }) => isPromised(name));
      if (major === 11)
        for (const { name } of finish.slots)
          if (!["idle", "busy"].includes(name))
            expect(there.has(name), `"${name}", which nothing protected, is there`).toBe(false);
      const seen = protectedOnes.filter((slot) => slot.lastSeenLsn !== null);
      for (const slot of seen.filter(({ plugin }) => plugin === "test_decoding")) {
        expect(["kept", "advanced", "materialised"], JSON.stringify(slot)).toContain(slot.outcome);
        expect(await peek(standby, slot.name), `"${slot.name}" sends what the primary would have`).toEqual(
          // 11 and 12 leave a slot short of its position where moving it would cost catalog rows
          committedAfter(everything, promisedAll ? startOf(slot, end) : parseLsn(slot.positionLsn ?? "")),
        );
      }

      const busy = isPromised("busy") ? insertedIds(await peek(standby, "busy"), "written") : [];
      const owed = insertedIds(committedAfter(everything, begun), "written");
      const lost = !isPromised("busy")
        ? []
        : owed.filter((id) => !reader.taken.has(id) && !busy.includes(id));
      expect(lost, "rows that the reader never gets").toEqual([]);
      const repeated = busy.filter((id) => reader.taken.has(id)).length;

      if (subscribed && major > 11 && isPromised("sub1")) {
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

/** Has the guards, and these slots, loaded by the one restart that it takes, with a transaction open all the while. */
async function loadByRestart(
  primary: PgServer,
  standby: PgServer,
  slots: readonly string[],
): Promise<TestSidecar> {
  for (const name of slots) await createLogicalSlot(primary, name);
  const open = await openTransaction(primary, rowOf(1));
  const sidecar = await startSidecar(standby);
  await untilStaged(sidecar, ...slots);
  await standby.restart();
  for (const name of slots) await sidecar.untilSlot(name, "synced");
  await open.commit();
  return sidecar;
}

/** One of the rows that no writer writes. */
function rowOf(number: number): string {
  return `insert into written values (${1_000_000_000 + number}, -1, '')`;
}
