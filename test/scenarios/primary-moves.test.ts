/** The primary is found anew after a failover elsewhere; what is not this standby's primary is not believed. */
import { expect, test } from "vitest";
import { waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { cyclesLater, slotIn } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startPatroniApi } from "../support/patroni.ts";
import { startSidecar } from "../support/sidecar.ts";
import { confirm, positionOf } from "../support/slots.ts";
import {
  followInstead,
  hostsOf,
  keptStreams,
  promisedStreams,
  syncSlots,
  untilAllSynced,
  untilFinished,
  untilProblem,
  untilStaged,
} from "../support/steps.ts";
import { waitForReceipt } from "../support/wal.ts";

/** A primary and two standbys, by the names that the tests tell them by. */
async function startThree(major: number) {
  const cluster = await startCluster({ major, standbys: 2 });
  const [b, c] = cluster.standbys as [PgServer, PgServer];
  return { cluster, a: cluster.primary, b, c };
}

const SOON = { minMs: 100, maxMs: 500 };

async function promote(standby: PgServer): Promise<void> {
  standby.promote();
  await standby.waitPromoted();
}

describeEach([11, 13], usedOf([11, 13]), (major) => {
  test("a standby that follows another primary after a failover elsewhere is synced on from that one, without a restart of the sidecar", async () => {
    const { a, b, c } = await startThree(major);
    const sidecar = await startSidecar(c, { nap: SOON });
    await createLogicalSlot(a, "before");
    await untilStaged(sidecar, "before");
    await a.kill();
    await promote(b);
    await createLogicalSlot(b, "after");
    await followInstead(c, b);
    await waitStreaming(b, c.name);
    const { problems } = await sidecar.until(
      "the new slot to be staged",
      ({ restart }) => restart?.staged.includes("after") ?? false,
    );
    expect(problems.filter(({ severity }) => severity === "stop")).toEqual([]);
    await c.restart();
    await sidecar.untilSlot("after", "synced");
  });
});

describeEach([16], usedOf([16]), (major) => {
  test("a standby that follows another primary after a failover elsewhere is synced on from that one, without a restart of the sidecar", async () => {
    const { cluster, a, b, c } = await startThree(major);
    await a.query("create table t (id int)");
    const beside = await startSidecar(b, { nap: SOON });
    const sidecar = await startSidecar(c, { nap: SOON });
    await syncSlots(beside, a, "kept");
    await sidecar.untilSlot("kept", "synced");
    await waitForReceipt(a, b);
    await waitForReceipt(a, c);
    await a.kill();
    await promote(b);
    await untilFinished(beside);
    await followInstead(c, b);
    await b.query("insert into t values (1)");
    await confirm(b, "kept");
    await b.query("insert into t values (2)");
    await untilAllSynced(sidecar, b);
    expect(sidecar.sidecar.journal.primaryTimeline).toBe(2);

    const promised = await promisedStreams({ primary: b, standby: c }, "kept");
    await b.kill();
    c.promote();
    await untilFinished(sidecar);
    expect(await keptStreams(c, ["kept"])).toEqual(promised);
    expect(cluster.standbys).toHaveLength(2);
  });

  test("of several hosts the primary is taken, and another that answers as primary stops all until it is gone (split brain)", async () => {
    const { a, b, c } = await startThree(major);
    const dsn = hostsOf(a, b, c);
    const sidecar = await startSidecar(c, {
      nap: SOON,
      primary: { dsn, patroniUrl: null, lookAboutEveryMs: 200 },
    });
    await syncSlots(sidecar, a, "kept");
    await waitForReceipt(a, b);
    await waitForReceipt(a, c);
    await a.kill();
    await promote(b);
    await createLogicalSlot(b, "after");
    await followInstead(c, b);
    await sidecar.untilSlot("after", "synced");

    // nobody has told the former primary
    await a.start();
    await confirm(a, "kept");
    const { ready, problems } = await untilProblem(sidecar, "split_brain");
    expect(ready).toBe(false);
    const { message = "" } = problems.find(({ code }) => code === "split_brain") ?? {};
    expect(message).toContain(`:${b.port}/postgres as postgres (timeline 2)`);
    expect(message).toContain(`:${a.port}/postgres as postgres (timeline 1)`);
    await confirm(b, "after");
    await a.kill();
    await sidecar.until("the split brain to be over", (status) => status.problems.length === 0);
    await sidecar.until(
      "the position of the primary that is left",
      (status) => slotIn(status, "after")?.lagBytes === 0,
    );

    await b.kill();
    const lost = await untilProblem(sidecar, "primary_unreachable");
    const why = lost.problems.map((problem) => problem.message).join();
    expect(why).toContain("none of 3 hosts will do");
    for (const { port } of [a, b]) expect(why).toContain(`ECONNREFUSED 127.0.0.1:${port}`);
    expect(why).toContain(`127.0.0.1:${c.port}: it is a standby, and primary is asked for`);
  });

  test("positions of a primary that branched off before this standby's WAL ends are not believed: promoted, it sends what the former one would have (I1)", async () => {
    const { a, b, c } = await startThree(major);
    await a.query("create table t (id int)");
    const dsn = hostsOf(a, b);
    const sidecar = await startSidecar(c, { nap: SOON, primary: { dsn, patroniUrl: null } });
    await syncSlots(sidecar, a, "kept");
    await waitForReceipt(a, b);
    await b.kill();
    await a.query("insert into t values (1)");
    const promised = await promisedStreams({ primary: a, standby: c }, "kept");
    await untilAllSynced(sidecar, a);
    const position = await positionOf(a, "kept");
    await a.kill();
    await b.start();
    await promote(b);
    await createLogicalSlot(b, "kept");
    for (let id = 0; id < 20; id++) await b.query("insert into t values (3)");
    await confirm(b, "kept");
    expect(await positionOf(b, "kept")).toBeGreaterThan(position);
    await followInstead(c, b);
    const { ready } = await untilProblem(sidecar, "timeline_differs");
    expect(ready).toBe(false);
    await sidecar.until("the refusal to last", () => c.logText().includes("forked off"));
    const told = await untilProblem(sidecar, "timeline_differs");
    expect(told.ready).toBe(false);

    c.promote();
    await untilFinished(sidecar);
    expect(await keptStreams(c, ["kept"])).toEqual(promised);
  });

  test("a former primary that primary.dsn still names is not believed once this standby follows another (I1, split brain)", async () => {
    const { a, b, c } = await startThree(major);
    const sidecar = await startSidecar(c, { nap: SOON, primary: { dsn: hostsOf(a), patroniUrl: null } });
    await syncSlots(sidecar, a, "kept");
    const known = slotIn(await untilAllSynced(sidecar, a), "kept")?.primaryConfirmedFlushLsn;
    await waitForReceipt(a, b);
    await promote(b);
    await followInstead(c, b);
    const { ready } = await untilProblem(sidecar, "timeline_differs");
    expect(ready).toBe(false);
    await a.query("create table t (id int)");
    await confirm(a, "kept");
    const told = await untilProblem(sidecar, "split_brain");
    expect(told.ready).toBe(false);
    expect(slotIn(told, "kept")?.primaryConfirmedFlushLsn).toBe(known);

    // the one it follows dies, and it streams no more: what it was on is remembered
    await b.kill();
    await sidecar.until("the other primary to be gone", ({ problems }) =>
      problems.every(({ code }) => code !== "split_brain"),
    );
    await a.query("insert into t values (1)");
    await confirm(a, "kept");
    const { problems, slots } = await cyclesLater(sidecar);
    expect(problems.map(({ code }) => code)).toContain("timeline_differs");
    expect(slots).toMatchObject([{ name: "kept", primaryConfirmedFlushLsn: known }]);
  });

  test("Patroni says where the primary is, and nothing else: who answers there is asked itself", async () => {
    const { a, b, c } = await startThree(major);
    const patroni = await startPatroniApi([a, b, c], a);
    const primary = { dsn: null, patroniUrl: patroni.url, lookAboutEveryMs: 200 };
    const sidecar = await startSidecar(c, { nap: SOON, primary });
    await syncSlots(sidecar, a, "kept");
    patroni.leader = b;
    await untilProblem(sidecar, "primary_in_recovery");
    await waitForReceipt(a, b);
    await waitForReceipt(a, c);
    await a.kill();
    patroni.leader = null;
    await promote(b);
    await followInstead(c, b);
    await sidecar.until("no leader to be told", ({ problems }) =>
      problems.some(({ message }) => message.includes("names no leader among its 3 members")),
    );
    await createLogicalSlot(b, "after");
    patroni.leader = b;
    await sidecar.untilSlot("after", "synced");

    // a second primary is noticed also while Patroni knows of none, and so is its end
    patroni.leader = null;
    await a.start();
    await untilProblem(sidecar, "split_brain");
    await a.kill();
    await sidecar.until("the split brain to be over", (status) => status.problems.length === 0);
  });
});
