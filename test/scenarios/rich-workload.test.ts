/**
 * Everything at once: what a slot sends after a failover is, text for text, what the old primary's own slot sends from the same position to
 * the end of the WAL that both have. The old primary is started again by itself and asked. `RICH_ROUNDS` (2) says how often on each major,
 * `RICH_SEED` repeats the choices of a run that failed, `PG_MAJORS` names the majors.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, expect, test } from "vitest";
import type { FinishedSlot } from "../../src/domain/finish.ts";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import type { Stoppable } from "../support/commotion.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { isReady, QUICK, untilRecorded } from "../support/file-way.ts";
import { describeEach, testedMajors } from "../support/majors.ts";
import {
  prepareRichTables,
  rewriteSomeCatalogs,
  richSettings,
  startRichWorkload,
  type Tally,
} from "../support/rich-workload.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { slotsOf } from "../support/slots.ts";
import { hasGuard, untilFinished, untilStaged } from "../support/steps.ts";
import { type Random, randomFrom } from "../support/writers.ts";

const ROUNDS = Number(process.env.RICH_ROUNDS ?? 2);
const SEED = Number(process.env.RICH_SEED ?? Math.floor(Math.random() * 1_000_000));
const seeds = Array.from({ length: ROUNDS }, (_, round) => SEED + round);
const MAJORS = process.env.PG_MAJORS === undefined ? [14, 17] : testedMajors();

const PLUGINS: Record<string, string> = {
  busy: "test_decoding",
  idle: "test_decoding",
  published: "pgoutput",
  late: "pgoutput",
};

describeEach(MAJORS, MAJORS, (major) => {
  const tally: Tally = new Map();
  const totals = { rounds: 0, slots: 0, changes: 0, unreadable: 0 };

  afterAll(() => {
    if (totals.rounds === 0) return;
    const work = [...tally].toSorted().map(([what, count]) => `${count} ${what}`);
    process.stdout.write(
      `\nrich workload on ${major} (RICH_SEED=${SEED}): ${totals.rounds} rounds, ${totals.slots} slots compared, ${totals.changes} changes alike, ${totals.unreadable} slots that the old primary itself could not read; ${work.join(", ")}\n`,
    );
  });

  test.each(seeds)(
    "every slot sends after a failover, text for text, what the old primary's own would have sent (I1, I2, I3, I4, I16; seed %i)",
    async (seed) => {
      const random = randomFrom(seed);
      const cluster = await startCluster({ major, settings: richSettings(major) });
      const { primary, standby } = cluster;
      await prepareRichTables(primary);
      await primary.query("create publication everything for all tables");
      // where slots are made by SQL, one that stands still is protected only if it is younger than the guard
      const bySql = major >= 16;
      const names = await makeSlots(primary, bySql ? ["busy", "published"] : ["busy", "idle", "published"]);
      const workload = startRichWorkload(primary, seed, 4, tally);
      await sleep(200 + random() * 400);
      await rewriteSomeCatalogs(primary, random, tally);
      const disturbance = disturbances(primary, random, tally);
      const readers = names.filter((name) => name !== "idle").map((name) => read(primary, name, random));

      const sidecar = await protect(cluster, names, random, tally);
      if (bySql) {
        await sidecar.until("the guard", hasGuard);
        names.push(...(await makeSlots(primary, ["idle"])));
      }
      if (major >= 12) names.push(...(await makeSlots(primary, ["late"])));
      await untilReady(sidecar, names, major);
      await sleep(random() * 1_000);
      await Promise.all(readers.map((reader) => reader.stop()));
      await untilRecorded(sidecar, primary, ...names);
      await untilReady(sidecar, names, major);
      await sleep(random() * 300);
      const ready = names.filter((name) => sidecar.status !== null && isReady(sidecar.status, name));

      await primary.kill();
      await Promise.all([workload.stop(), disturbance.stop()]);
      standby.promote();
      const { finish } = await untilFinished(sidecar);
      if (!finish?.endOfWalLsn) throw new Error("no gap report");
      expect(finish.complete, JSON.stringify(finish)).toBe(true);
      // cut off from everybody, it tells what it would have sent
      await primary.start();
      const end = parseLsn(finish.endOfWalLsn);
      for (const slot of finish.slots) {
        // one that was not called ready may be given up; one that is kept sends all
        if (slot.positionLsn === null && !ready.includes(slot.name)) continue;
        totals.slots += 1;
        const alike = await expectAlike(cluster, slot, end).catch((error: unknown) => {
          const before = sidecar.history.findLast(({ role }) => role === "standby");
          const told = before?.slots.find(({ name }) => name === slot.name);
          throw new Error(`before the promotion: ${JSON.stringify(told)}`, { cause: error });
        });
        if (alike === null) totals.unreadable += 1;
        else totals.changes += alike;
      }
      expect(finish.slots.map(({ name }) => name).toSorted()).toEqual(names.toSorted());
      totals.rounds += 1;
    },
  );
});

/**
 * Below 13 an advance may run ahead of the primary's slot, and under such a load a slot can stay not ready for long: there it is enough that
 * those of the beginning are here. What is called ready by then must be there in the end.
 */
async function untilReady(sidecar: TestSidecar, names: readonly string[], major: number): Promise<void> {
  if (major >= 13)
    await sidecar.until("all to be ready", ({ ready, slots }) => ready && slots.length === names.length);
  else
    await sidecar.until("the slots to be here", ({ slots }) =>
      slots.every(
        ({ name, standbyConfirmedFlushLsn }) => name === "late" || standbyConfirmedFlushLsn !== null,
      ),
    );
}

async function makeSlots(primary: PgServer, names: string[]): Promise<string[]> {
  for (const name of names) await createLogicalSlot(primary, name, { plugin: PLUGINS[name] ?? "" });
  return names;
}

/** Starts a sidecar; where slots come as files, restarts the standby for them, with catalogs rewritten before and after. */
async function protect(
  { standby, primary, major }: TestCluster,
  names: readonly string[],
  random: Random,
  tally: Tally,
): Promise<TestSidecar> {
  const sidecar = await startSidecar(standby, { nap: QUICK });
  if (major >= 16) return sidecar;
  await untilStaged(sidecar, ...names);
  await rewriteSomeCatalogs(primary, random, tally);
  if (random() < 0.5) await standby.query("checkpoint");
  await standby.restart();
  await rewriteSomeCatalogs(primary, random, tally);
  return sidecar;
}

/** Checkpoints and rewrites of catalogs now and then. */
function disturbances(primary: PgServer, random: Random, tally: Tally): Stoppable {
  return repeatedly(async () => {
    await sleep(random() * 600);
    if (random() < 0.5) await primary.query("checkpoint");
    else await rewriteSomeCatalogs(primary, random, tally);
  });
}

/** A consumer that confirms what it has read. */
function read(primary: PgServer, name: string, random: Random): Stoppable {
  return repeatedly(async () => {
    await sleep(random() * 400);
    await primary.query(
      `select count(*) from pg_catalog.pg_logical_slot_get_binary_changes($1, null, 500, variadic $2::text[])`,
      [name, optionsOf(name, primary.major)],
    );
  });
}

/** Until it is stopped, or its server is gone. A deadlock with a rewrite of catalogs, and the like, is part of the work. */
function repeatedly(work: () => Promise<void>): Stoppable {
  let stopped = false;
  const loop = (async () => {
    try {
      while (!stopped)
        await work().catch((error: unknown) => {
          if (!/^(40|55|XX)/.test(String((error as { code?: unknown }).code))) throw error;
        });
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

function optionsOf(name: string, major: number): string[] {
  if (PLUGINS[name] === "test_decoding") return ["skip-empty-xacts", "1", "include-timestamp", "1"];
  const messages = major >= 14 ? ["messages", "true"] : [];
  return ["proto_version", major >= 14 ? "2" : "1", "publication_names", "everything", ...messages];
}

/**
 * Compares the whole stream; returns how many changes it has, or null where the old primary's own slot cannot be read: servers before 14
 * fail over their own catalogs now and then when those were rewritten.
 */
async function expectAlike(
  { primary, standby, major }: TestCluster,
  slot: FinishedSlot,
  end: Lsn,
): Promise<number | null> {
  const { name, positionLsn, lastSeenLsn } = slot;
  const what = `"${name}": ${JSON.stringify(slot)}`;
  expect(positionLsn, what).not.toBeNull();
  const kept = (await slotsOf(standby)).get(name);
  expect(kept?.confirmed, what).toBe(positionLsn);
  if (lastSeenLsn !== null && parseLsn(lastSeenLsn) <= end) expect(positionLsn, what).toBe(lastSeenLsn);
  const there = (await slotsOf(primary)).get(name);
  if (there?.confirmed !== positionLsn)
    await primary.query("select pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)", [name, positionLsn]);
  const promised = await stream(primary, name, end).catch((error: unknown) => {
    if (major >= 14) throw error;
    return null;
  });
  if (promised === null) return null;
  const sent = await stream(standby, name, end).catch((error: unknown) => {
    throw new Error(what, { cause: error });
  });
  expect(sent, what).toEqual(promised);
  return promised.length;
}

/** What the slot sends of transactions that end by then. */
async function stream(server: PgServer, name: string, end: Lsn): Promise<string[]> {
  const text = PLUGINS[name] === "test_decoding";
  const rows = await server.query<{ lsn: string; xid: string; data: string }>(
    `select lsn::text, xid::text, ${text ? "data" : "encode(data, 'escape') as data"}
       from pg_catalog.pg_logical_slot_peek_${text ? "" : "binary_"}changes($1, null, null, variadic $2::text[])`,
    [name, optionsOf(name, server.major)],
  );
  const last = rows.findLastIndex(
    ({ lsn, data }) => data.startsWith(text ? "COMMIT" : "C") && parseLsn(lsn) <= end,
  );
  return rows.slice(0, last + 1).map(({ lsn, xid, data }) => `${lsn} ${xid} ${data}`);
}
