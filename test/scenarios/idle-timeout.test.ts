/** 18 and later: `idle_replication_slot_timeout`, which gives up slots that nobody reads. Nobody reads ours. */
import { expect, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { createFailoverSlot } from "../support/server-sync.ts";
import { startSidecar } from "../support/sidecar.ts";
import { confirm, slotsOf } from "../support/slots.ts";
import { failOver, hasGuard, keptStreams, promisedStreams } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";

const TIMEOUT_S = 5;

describeEach([18], usedOf([18]), (major) => {
  test("where idle slots are given up, ours are used in time: on a quiet standby, while the primary is gone, and at the promotion (I18, K6)", async () => {
    const cluster = await startCluster({
      major,
      standbySettings: { idle_replication_slot_timeout: `${TIMEOUT_S}s` },
    });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await primary.query("create table t (id int)");
    await createLogicalSlot(primary, "copied");
    await createFailoverSlot(primary, "flagged");
    await createLogicalSlot(primary, "behind");
    await sidecar.until("all to be ready", ({ ready, slots }) => ready && slots.length === 3);
    await primary.query("insert into t values (1)");
    for (const name of ["copied", "flagged"]) await confirm(primary, name);
    await primary.query("insert into t values (2)");
    await waitForReplay(primary, standby);

    await pass(standby, TIMEOUT_S + 1);
    await restartpoint(primary, standby);
    expect(await givenUp(standby), "after a restartpoint").toEqual([]);
    expect(sidecar.status?.ready).toBe(true);

    const promised = await promisedStreams(cluster, "copied", "flagged", "behind");
    await primary.kill();
    await pass(standby, TIMEOUT_S + 1);
    expect(await sidecar.until("the loss to be told", ({ source }) => source === "journal")).toMatchObject({
      ready: true,
    });
    const { finish } = await failOver(cluster, sidecar);
    await standby.query("checkpoint");
    expect(await givenUp(standby), JSON.stringify(finish)).toEqual([]);
    expect(await keptStreams(standby, promised.keys())).toEqual(promised);
  });

  test("a hold is used in time too: a checkpoint would end the session that has it (I18)", async () => {
    const { primary, standby } = await startCluster({
      major,
      standbySettings: { idle_replication_slot_timeout: `${TIMEOUT_S}s` },
    });
    await primary.query("create table t (id int)");
    await createLogicalSlot(primary, "older_than_the_guard");
    await primary.query("insert into t values (1)");
    const sidecar = await startSidecar(standby);
    const holds = async () =>
      [...(await slotsOf(standby)).values()].filter(({ name }) => name.startsWith("slotsync_hold"));
    await eventually(async () => (await holds()).length === 1, { what: "the hold" });
    const [before] = await standby.query(
      "select pid from pg_catalog.pg_stat_activity where application_name like '% hold'",
    );
    await pass(standby, TIMEOUT_S + 1);
    await restartpoint(primary, standby);
    expect(await givenUp(standby), JSON.stringify(sidecar.log.slice(-20))).toEqual([]);
    expect(
      await standby.query("select pid from pg_catalog.pg_stat_activity where application_name like '% hold'"),
    ).toEqual([before]);
  });
});

/** Lets time go by on the server's own clock. */
async function pass(server: PgServer, seconds: number): Promise<void> {
  const [start] = await server.query<{ now: string }>("select pg_catalog.clock_timestamp()::text as now");
  const sql =
    "select from (select) as one where pg_catalog.clock_timestamp() > $1::timestamptz + $2::interval";
  await eventually(async () => (await server.query(sql, [start?.now, `${seconds} s`])).length > 0, {
    what: `${seconds} s to pass`,
    timeoutMs: 60_000,
    intervalMs: 200,
  });
}

/** Has the standby make a restartpoint of a checkpoint that the primary makes now. */
async function restartpoint(primary: PgServer, standby: PgServer): Promise<void> {
  await primary.query("checkpoint");
  await waitForReplay(primary, standby);
  await standby.query("checkpoint");
}

async function givenUp(server: PgServer): Promise<string[]> {
  const rows = await server.query<{ name: string; why: string }>(
    `select slot_name::text as name, invalidation_reason as why from pg_catalog.pg_replication_slots
      where slot_type = 'logical' and invalidation_reason is not null`,
  );
  return rows.map(({ name, why }) => `${name}: ${why}`);
}
