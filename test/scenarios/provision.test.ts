/** 16: what SQL cannot make exactly comes by its file, where the operator allows a restart (slots.provision). */
import { describe, expect, test } from "vitest";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { startSidecar } from "../support/sidecar.ts";
import { comparable, confirm, peek, slotsOf } from "../support/slots.ts";
import { hasGuard, untilReason } from "../support/steps.ts";
import { logRunningTransactions, waitForReceipt, writeWal } from "../support/wal.ts";

const nap = { minMs: 100, maxMs: 500 };
const policy = {
  guardDatabases: "auto",
  duty: 0.05,
  restarts: true,
  onConflict: "adopt",
  releaseAfterMs: null,
} as const;

async function twoPhaseSlot(primary: Parameters<typeof createLogicalSlot>[0], name: string): Promise<void> {
  await primary.query(
    "select pg_catalog.pg_create_logical_replication_slot($1, 'test_decoding', false, true)",
    [name],
  );
}

describe("PostgreSQL 16", () => {
  test("auto: two_phase slots, and slots older than the first guard, come by their files; the others by SQL at once (G5, I2)", async () => {
    const settings = { max_prepared_transactions: 10 };
    const { primary, standby } = await startCluster({ major: 16, settings });
    await primary.query("create table written (id bigint primary key)");
    await createLogicalSlot(primary, "old");
    await twoPhaseSlot(primary, "exact");
    await primary.query("insert into written values (1)");
    await confirm(primary, "exact");
    await writeWal(primary, 100_000);
    const sidecar = await startSidecar(standby, { nap, policy: { ...policy, provision: "auto" } });
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "fresh");
    await sidecar.untilSlot("fresh", "synced");
    await sidecar.until("both to be staged", ({ restart }) => restart?.slots === 2);
    for (const name of ["old", "exact"])
      expect(sidecar.status?.slots.find((slot) => slot.name === name)?.reason).toBe("restart_pending");

    await standby.restart();
    // the physical slot's catalog_xmin never moves back: what needs older rows is safe once its subscriber has gone on (I4)
    for (const name of ["old", "exact"]) await untilReason(sidecar, name, "catalog_rows_unproven");
    await primary.query("insert into written values (10)");
    await logRunningTransactions(primary);
    for (const name of ["old", "exact"]) await confirm(primary, name);
    await logRunningTransactions(primary);
    for (const name of ["old", "exact"]) await confirm(primary, name);
    for (const name of ["old", "exact", "fresh"]) await sidecar.untilSlot(name, "synced");
    const client = await primary.connect();
    await client.query("begin; insert into written values (2); prepare transaction 'two'");
    await client.query("insert into written values (3)");
    await client.end();
    await waitForReceipt(primary, standby);
    const old = await peek(primary, "old");
    await primary.kill();
    standby.promote();
    const { finish } = await sidecar.until("the finishing step", ({ role }) => role === "primary");
    expect(finish?.slots.map(({ outcome }) => outcome).toSorted()).toEqual(["kept", "kept", "kept"]);
    expect(comparable(await peek(standby, "old"))).toEqual(comparable(old));
    await standby.query("commit prepared 'two'");
    const decoded = comparable(await peek(standby, "exact")).map((line) => line.replace(/^\S+ /, ""));
    expect(decoded.filter((line) => line.includes("INSERT"))).toEqual([
      expect.stringContaining(":2"),
      expect.stringContaining(":3"),
    ]);
    expect(decoded).toContainEqual(expect.stringMatching(/^COMMIT PREPARED/));
  });

  test("sql: nothing is staged, and a two_phase slot is refused with the way out (G5)", async () => {
    const { primary, standby } = await startCluster({ major: 16 });
    await twoPhaseSlot(primary, "exact");
    const sidecar = await startSidecar(standby, { nap, policy: { ...policy, provision: "sql" } });
    await sidecar.until("the guard", hasGuard);
    await sidecar.untilSlot("exact", "blocked");
    expect(sidecar.status?.slots[0]).toMatchObject({
      reason: "prepared_transactions_pending",
      detail: expect.stringContaining("slots.provision = auto or file"),
    });
    expect(sidecar.status?.restart).toBeNull();
  });

  test("file: every slot waits for a start, guarded until then, and what is staged goes when the way is changed (I11)", async () => {
    const { primary, standby } = await startCluster({ major: 16 });
    const file = await startSidecar(standby, { nap, policy: { ...policy, provision: "file" } });
    await file.until("the guard", hasGuard);
    await createLogicalSlot(primary, "app");
    await file.untilSlot("app", "guarded");
    await file.until("it to be staged", ({ restart }) => restart?.slots === 1);
    await file.stop();
    const sql = await startSidecar(standby, {
      nap,
      stateDirectory: file.stateDirectory,
      policy: { ...policy, provision: "sql" },
    });
    await sql.untilSlot("app", "synced");
    expect((await slotsOf(standby)).has("app")).toBe(true);
    await sql.until("nothing to be staged", ({ restart }) => restart === null);
    await standby.restart();
    await sql.untilSlot("app", "synced");
  });
});
