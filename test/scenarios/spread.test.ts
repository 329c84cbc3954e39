/** Guards of the file way: a laggard does not hold the others back (G3), and a new database waits for a start. */
import { describe, expect, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import type { Status } from "../../src/domain/status.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { startSidecar } from "../support/sidecar.ts";
import { comparable, confirm, peek, slotsOf } from "../support/slots.ts";
import { waitForReceipt, writeWal } from "../support/wal.ts";

const MB = 1024 * 1024;
const nap = { minMs: 100, maxMs: 500 };

function positions({ guards }: Status): bigint[] {
  return guards.map(({ confirmedFlushLsn }) => (confirmedFlushLsn ? parseLsn(confirmedFlushLsn) : 0n));
}

describe.each([12, 15])("PostgreSQL %i", (major) => {
  test("an idle slot keeps one guard, the other goes on with the rest, and both slots come out exact (G2b, G3)", async () => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("create table written (id bigint primary key)");
    const sidecar = await startSidecar(standby, { nap });
    await sidecar.until("the guards to be staged", ({ restart }) => restart?.guards === 2);
    await standby.restart();
    await sidecar.until("the guards", (status) => positions(status).every((position) => position > 0n));
    for (const name of ["idle", "busy"]) await createLogicalSlot(primary, name);
    for (const name of ["idle", "busy"]) await sidecar.untilSlot(name, "guarded");

    await primary.query("insert into written select generate_series(1, 10)");
    for (let written = 0; written < 80 * MB; written += 20 * MB) await writeWal(primary, 20 * MB);
    await primary.query("checkpoint");
    await confirm(primary, "busy");
    await primary.query("insert into written select generate_series(11, 20)");
    const busyAt = parseLsn((await slotsOf(primary)).get("busy")?.confirmed ?? "");
    const idleAt = parseLsn((await slotsOf(primary)).get("idle")?.confirmed ?? "");
    await sidecar.until(
      "one guard past the idle slot, and one behind it",
      (status) =>
        positions(status).some((position) => position > idleAt && position <= busyAt) &&
        positions(status).some((position) => position <= idleAt),
    );
    await sidecar.until(
      "both to be guarded",
      ({ slots }) => slots.length === 2 && slots.every(({ protection }) => protection === "guarded"),
    );

    await waitForReceipt(primary, standby);
    const before = { idle: await peek(primary, "idle"), busy: await peek(primary, "busy") };
    await primary.kill();
    standby.promote();
    const { finish } = await sidecar.until("the finishing step", ({ role }) => role === "primary");
    expect(finish?.slots.map(({ outcome }) => outcome)).toEqual(["materialised", "materialised"]);
    for (const name of ["idle", "busy"] as const)
      expect(comparable(await peek(standby, name)), name).toEqual(comparable(before[name]));
  });
});

test("a new database has no guard until the next start, its slots say so, and one start mends it (14)", async () => {
  const { primary, standby } = await startCluster({ major: 14 });
  const sidecar = await startSidecar(standby, { nap });
  await sidecar.until("the guards to be staged", ({ restart }) => restart?.guards === 2);
  await standby.restart();
  await sidecar.until("the guards", (status) => positions(status).every((position) => position > 0n));
  await primary.query("create database shop");
  await createLogicalSlot(primary, "orders", { database: "shop" });
  const { slots, restart } = await sidecar.until(
    "guards and slot to be staged",
    ({ restart: status }) => status?.guards === 2 && status.slots === 1,
  );
  expect(slots).toMatchObject([{ name: "orders", protection: "waiting", reason: "restart_pending" }]);
  expect(restart?.staged).toContain("orders");
  await standby.restart();
  await sidecar.untilSlot("orders", "synced");
  await createLogicalSlot(primary, "invoices", { database: "shop" });
  await sidecar.untilSlot("invoices", "guarded");
});
