/** docs/mixed-fleet.md: moving a cluster to another major by logical replication, with both clusters protected all the way. */
import { expect, test } from "vitest";
import { createFailoverSlot, quickSidecar } from "../conformance/steps.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { insertedIds, readSlot, subscribe, waitForSubscriber } from "../support/consumer.ts";
import { isReady } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import type { TestSidecar } from "../support/sidecar.ts";
import { failOver } from "../support/steps.ts";
import { waitForReceipt } from "../support/wal.ts";

const untilReady = (sidecar: TestSidecar, ...names: string[]) =>
  sidecar.until(
    `${names.join(" and ")} to be safe on ${sidecar.sidecar.options.dataDirectory}`,
    (status) => status.ready && names.every((name) => isReady(status, name)),
  );

describeEach([17], usedOf([17]), (major) => {
  test("from 16 by logical replication: each cluster's slots are safe until the move and after it, and no row is lost or sent twice", async () => {
    const old = await startCluster({ major: 16 });
    const next = await startCluster({ major });
    for (const { primary } of [old, next]) await primary.query("create table t (id int primary key)");
    const before = await quickSidecar(old.standby);
    const after = await quickSidecar(next.standby);
    await createFailoverSlot(old.primary, "app");
    await subscribe({ publisher: old.primary, subscriber: next.primary, name: "upgrade", tables: ["t"] });
    await untilReady(before, "app", "upgrade");

    await old.primary.query("insert into t select generate_series(1, 100)");
    const taken = insertedIds(await readSlot(old.primary, "app"), "t");
    await waitForSubscriber(old.primary, "upgrade");
    await untilReady(before, "app", "upgrade");

    // nobody writes now
    await createFailoverSlot(next.primary, "app");
    await untilReady(after, "app");
    await untilReady(before, "app", "upgrade");
    await next.primary.query("drop subscription upgrade");
    await next.primary.query("insert into t select generate_series(101, 110)");
    await waitForReceipt(next.primary, next.standby);
    await untilReady(after, "app");
    const { finish } = await failOver(next, after);
    expect(finish?.complete, JSON.stringify(finish)).toBe(true);
    taken.push(...insertedIds(await readSlot(next.standby, "app"), "t"));
    expect(taken).toEqual(Array.from({ length: 110 }, (_, index) => index + 1));
  });
});
