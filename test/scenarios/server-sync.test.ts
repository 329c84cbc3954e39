/** 17 and later: slots that are flagged `failover` are synced by the server itself, and guarded as long as it has not. */
import { expect, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { insertedIds, readSlot } from "../support/consumer.ts";
import { describeEach } from "../support/majors.ts";
import {
  createFailoverSlot,
  flagsOf,
  readUntilServed,
  SERVER_SYNC_MAJORS,
  serverSyncMajors,
  setWorker,
} from "../support/server-sync.ts";
import { startSidecar } from "../support/sidecar.ts";
import { slotsOf } from "../support/slots.ts";
import {
  failOver,
  hasGuard,
  keptStreams,
  promisedStreams,
  untilProblem,
  untilReason,
} from "../support/steps.ts";
import { logRunningTransactions, waitForReplay } from "../support/wal.ts";

describeEach(SERVER_SYNC_MAJORS, serverSyncMajors(), (major) => {
  test.each([true, false])(
    "an idle and a busy slot come through a failover with the server's worker on: %s; the worker alone loses the idle one (I1, I2, I6)",
    async (workerOn) => {
      const cluster = await startCluster({ major, standbys: 2 });
      const { primary, standby, standbys } = cluster;
      const alone = standbys[1] as typeof standby;
      if (workerOn) await setWorker(standby, true);
      const sidecar = await startSidecar(standby);
      await sidecar.until("the guard", hasGuard);
      await primary.query("create table t (id int)");
      for (const name of ["idle", "busy"]) await createFailoverSlot(primary, name);
      await sidecar.untilSlot("idle");
      // transactions have come and gone since the idle one was made: a server that looks now cannot sync it
      for (const id of [1, 2, 3]) await primary.query("insert into t values ($1)", [id]);
      await logRunningTransactions(primary);
      await waitForReplay(primary, alone);
      await setWorker(alone, true);
      const taken = await readUntilServed(primary, [standby, alone], "busy");
      const idleThere = (await flagsOf(alone)).get("idle");
      expect(idleThere?.temporary ?? true, JSON.stringify(idleThere)).toBe(true);
      await primary.query("insert into t values (1000)");
      await sidecar.untilSlot("busy", "synced");
      await sidecar.until("both to be ready", ({ ready, slots }) => ready && slots.length === 2);
      const promised = await promisedStreams(cluster, "idle", "busy");
      const { finish } = await failOver(cluster, sidecar);
      expect(finish?.complete, JSON.stringify(finish)).toBe(true);
      expect(await keptStreams(standby, ["idle"])).toEqual(new Map([["idle", promised.get("idle")]]));
      const kept = await flagsOf(standby);
      expect([...kept.keys()]).toEqual(["busy", "idle"]);
      expect([...kept.values()].map(({ failover }) => failover)).toEqual([true, true]);
      // what was confirmed since the last look may come once more
      const all = new Set([...taken, ...insertedIds(await readSlot(standby, "busy"), "t")]);
      const written = await rowsOf(standby);
      expect([...all].toSorted((a, b) => a - b)).toEqual(written);

      alone.promote();
      await alone.waitPromoted();
      expect([...(await flagsOf(alone)).keys()]).toEqual(["busy"]);
    },
  );

  test("the worker may be switched on and off: nothing is lost, and nothing is taken for foreign (I7)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    let sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await primary.query("create table t (id int)");
    await createFailoverSlot(primary, "first");
    await readUntilServed(primary, [standby], "first");
    await sidecar.untilSlot("first", "synced");
    await setWorker(standby, true);
    await createFailoverSlot(primary, "second");
    await readUntilServed(primary, [standby], "second");
    await sidecar.untilSlot("second", "synced");
    await sidecar.stop();
    sidecar = await startSidecar(standby, { stateDirectory: sidecar.stateDirectory });
    await sidecar.untilSlot("first", "synced");
    await setWorker(standby, false);
    await createFailoverSlot(primary, "third");
    await readUntilServed(primary, [standby], "third");
    await primary.query("insert into t values (1)");
    for (const name of ["first", "second", "third"]) await sidecar.untilSlot(name, "synced");
    // what was confirmed must have been seen, or it is sent again
    const confirmed = (await slotsOf(primary)).get("third")?.confirmed;
    await sidecar.until("the last confirmation to be seen", ({ slots }) =>
      slots.some((slot) => slot.name === "third" && slot.primaryConfirmedFlushLsn === confirmed),
    );
    await sidecar.until("all to be ready", ({ ready }) => ready);
    const promised = await promisedStreams(cluster, "first", "second", "third");
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, promised.keys())).toEqual(promised);
    expect([...(await flagsOf(standby)).values()].map(({ failover }) => failover)).toEqual([
      true,
      true,
      true,
    ]);
  });

  test("a slot that stands in the server's way stops neither the others nor, once it is gone, its own protection; what stalls is told (I7, I9)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await primary.query("create table t (id int)");
    await standby.query(
      `select pg_catalog.pg_copy_logical_replication_slot(slot_name, 'clash', false, 'test_decoding')
         from pg_catalog.pg_replication_slots where slot_name like 'slotsync_guard%'`,
    );
    await createFailoverSlot(primary, "clash");
    await createFailoverSlot(primary, "other");
    await untilReason(sidecar, "clash", "name_conflict");
    await sidecar.untilSlot("other");
    const { problems: raised } = await untilProblem(sidecar, "server_sync_failed");
    expect(raised.find(({ code }) => code === "server_sync_failed")?.message).toContain('slot "clash"');
    primary.configure({ synchronized_standby_slots: "standby1, gone" });
    primary.reload();
    const { problems } = await untilProblem(sidecar, "standby_slots_stalled");
    expect(problems.find(({ code }) => code === "standby_slots_stalled")?.message).toContain('names "gone"');
    primary.configure({ synchronized_standby_slots: null });
    primary.reload();
    await primary.query("insert into t values (1)");
    await standby.query("select pg_catalog.pg_drop_replication_slot('clash')");
    await sidecar.until("all to be ready", ({ ready, slots }) => ready && slots.length === 2);
    await sidecar.until("nothing to stall", ({ problems: left }) =>
      left.every(({ code }) => code !== "standby_slots_stalled"),
    );
    const promised = await promisedStreams(cluster, "clash", "other");
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, promised.keys())).toEqual(promised);
    expect([...(await flagsOf(standby)).values()].map(({ failover }) => failover)).toEqual([true, true]);
  });
});

/** The rows of the table. */
async function rowsOf(server: PgServer): Promise<number[]> {
  return (await server.query<{ id: number }>("select id from t order by id")).map(({ id }) => id);
}
