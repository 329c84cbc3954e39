/** The whole way of the versions on which slots come by their files, as an operator goes it: staged, one restart, a failover. */
import { expect, test } from "vitest";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, insertedIds, readSlot, repoint, subscribe } from "../support/consumer.ts";
import { describeEach, FILE_MAJORS, fileMajors } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { sidecarSlots } from "../support/slots.ts";
import { failOver, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { startWriters } from "../support/writers.ts";

describeEach(FILE_MAJORS, fileMajors(), (major) => {
  test("after one restart of the standby a failover keeps every change for an idle slot, a read one and a native subscription (I1, I2, I3, I4)", async () => {
    const cluster = await startCluster({ major, subscriber: true });
    const { primary, standby, subscriber } = cluster;
    for (const server of [primary, subscriber])
      await server.query(
        "create table written (id bigint primary key, writer integer not null, filler text)",
      );
    await createLogicalSlot(primary, "idle");
    await createLogicalSlot(primary, "busy");
    await subscribe({ publisher: primary, subscriber, name: "sub1", tables: ["written"] });
    const sidecar = await startSidecar(standby);
    await untilStaged(sidecar, "idle", "busy", "sub1");
    const writers = await startWriters(primary, { connections: 6 });
    await writers.waitForCommits(100);
    await standby.restart();
    for (const name of ["idle", "busy", "sub1"]) await sidecar.untilSlot(name, "synced");
    const before = insertedIds(await readSlot(primary, "busy"), "written");
    await writers.waitForCommits(200);
    await sidecar.until("all to be ready", ({ ready }) => ready);
    await writers.stop();

    await failOver(cluster, sidecar);
    expect(sidecar.status?.finish?.complete).toBe(true);
    expect(await sidecarSlots(standby)).toEqual([]);
    const survived = (await standby.query<{ id: string }>("select id from written")).map(({ id }) =>
      Number(id),
    );
    expect(survived.length).toBeGreaterThan(250);
    expect(new Set(insertedIds(await readSlot(standby, "idle"), "written"))).toEqual(new Set(survived));
    const after = insertedIds(await readSlot(standby, "busy"), "written");
    expect(new Set([...before, ...after])).toEqual(new Set(survived));
    await repoint(subscriber, "sub1", standby);
    await standby.query("insert into written values (1000000000, -1, '')");
    await eventually(
      async () => {
        const rows = await subscriber.query<{ id: string }>("select id from written");
        const got = new Set(rows.map(({ id }) => Number(id)));
        return [...survived, 1_000_000_000].every((id) => got.has(id));
      },
      { what: "the subscriber to have every row of the new primary" },
    );
  });
});
