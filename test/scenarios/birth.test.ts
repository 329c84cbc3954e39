/** Slots of ours that are born while catalog changes are in flight (K4). */
import { describe, expect, test } from "vitest";
import { bearInFlight } from "../support/births.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { confirm, sidecarSlots, slotsOf } from "../support/slots.ts";
import { failOver, hasGuard, keptStreams, promisedStreams, untilProblem } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { pauseReplay, resumeReplay, waitForReplay } from "../support/wal.ts";

/** Those on which a guard is made by SQL. */
const majors = testedMajors().filter((major) => major >= 16);

test("a database with a user_catalog_table is named, and is ready all the same (K4)", async () => {
  const { primary, standby } = await startCluster();
  await primary.query("create table own (id int) with (user_catalog_table = on)");
  await primary.query("create table plain (id int) with (fillfactor = 90)");
  await waitForReplay(primary, standby);
  const sidecar = await startSidecar(standby);
  const { problems } = await untilProblem(sidecar, "user_catalog_table");
  const told = problems.filter(({ code }) => code === "user_catalog_table");
  expect(told).toMatchObject([{ severity: "warning", message: expect.stringContaining("(public.own)") }]);
  await sidecar.until("the guard", hasGuard);
  await createLogicalSlot(primary, "read");
  expect((await sidecar.untilSlot("read")).ready).toBe(true);
});

describe.each(majors)("PostgreSQL %i", (major) => {
  test("a guard that is born while a column is added counts only once it lies past that: the rows sent after a failover have the column (I2, K4)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int primary key)");
    await primary.query("create table other (id int)");
    await createLogicalSlot(primary, "read");
    await waitForReplay(primary, standby);
    let sidecar = null as Awaited<ReturnType<typeof startSidecar>> | null;
    // the standby must not know of T0 yet when the guard's creation begins: it would wait for its end before anything else
    await pauseReplay(standby);
    const { open } = await bearInFlight(
      primary,
      standby,
      async () => {
        sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 500 } });
      },
      async () => {
        await eventually(async () => [...(await slotsOf(standby)).values()].some(({ restart }) => restart), {
          what: "the guard's creation to begin",
        });
        await resumeReplay(standby);
      },
    );
    if (!sidecar) throw new Error("no sidecar");
    const { until } = sidecar;
    await eventually(async () => (await sidecarSlots(standby)).length === 1, { what: "the guard" });
    await confirm(primary, "read");
    const told = await until("the guard to be told new", ({ slots }) =>
      slots.some(({ detail }) => detail?.includes("the guard of database") && detail.includes("is new")),
    );
    expect(told.ready).toBe(false);
    expect(hasGuard(told)).toBe(false);
    await until("what it waits for to be told", ({ slots }) =>
      slots.some(({ detail }) =>
        /the oldest on the primary now: process \d+ in database "postgres"/.test(detail ?? ""),
      ),
    );
    await open.query("commit");
    await open.end();
    const protectedNow = () => sidecar?.status?.slots.some(({ reason }) => reason === null) ?? false;
    await eventually(
      async () => {
        await confirm(primary, "read");
        return protectedNow();
      },
      { what: "the slot to be protected" },
    );
    await primary.query("insert into t values (4, 'after')");
    const promised = await promisedStreams(cluster, "read");
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, ["read"])).toEqual(promised);
  });
});
