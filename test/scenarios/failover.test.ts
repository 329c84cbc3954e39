import { describe, expect, test } from "vitest";
import { startCluster } from "../support/cluster-fixture.ts";
import {
  createLogicalSlot,
  insertedIds,
  readSlot,
  repoint,
  subscribe,
  waitSubscribed,
} from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { eventually } from "../support/wait.ts";
import { startWriters } from "../support/writers.ts";

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("failover keeps every change for an idle slot, a read one and a native subscription (I1, I2)", async () => {
    const cluster = await startCluster({ major, subscriber: true });
    const { primary, standby, subscriber } = cluster;
    const sidecar = await startSidecar(standby);
    await sidecar.until(
      "guards",
      (status) => status.guards.length > 0 && status.guards.every((guard) => guard.confirmedFlushLsn),
    );
    for (const server of [primary, subscriber])
      await server.query(
        "create table written (id bigint primary key, writer integer not null, filler text)",
      );
    await createLogicalSlot(primary, "idle");
    await createLogicalSlot(primary, "busy");
    await subscribe({ publisher: primary, subscriber, name: "sub1", tables: ["written"] });
    await waitSubscribed(subscriber, "sub1");
    await sidecar.untilSlot("idle", "synced");
    const writers = await startWriters(primary, { connections: 6 });
    await writers.waitForCommits(200);
    const before = insertedIds(await readSlot(primary, "busy"), "written");
    await writers.waitForCommits(400);
    await sidecar.untilSlot("busy", "synced");
    await primary.kill();
    await writers.stop();
    await standby.promote();
    await standby.waitPromoted();
    const { finish } = await sidecar.until("the finishing step", (status) => status.role === "primary");
    expect(finish?.complete).toBe(true);
    await repoint(subscriber, "sub1", standby);
    const survived = (await standby.query<{ id: string }>("select id from written order by id")).map((row) =>
      Number(row.id),
    );
    expect(insertedIds(await readSlot(standby, "idle"), "written").toSorted((a, b) => a - b)).toEqual(
      survived,
    );
    const after = insertedIds(await readSlot(standby, "busy"), "written");
    expect([...new Set([...before, ...after])].toSorted((a, b) => a - b)).toEqual(survived);
    await eventually(
      async () => {
        const rows = await subscriber.query<{ id: string }>("select id from written order by id");
        return rows.length === survived.length && rows.every((row, at) => Number(row.id) === survived[at]);
      },
      { what: "the subscriber to have every row of the new primary" },
    );
    expect(writers.committed.size).toBeGreaterThan(300);
    expect(
      (await standby.query("select from pg_replication_slots where slot_name like 'slotsync%'")).length,
    ).toBe(0);
  });
});
