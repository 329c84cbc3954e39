/**
 * `VACUUM FULL` of catalogs moves their rows while a transaction that changed them is open, or before it is decoded. The server notes where
 * each row went in `pg_logical/mappings`, and a standby with no logical slot in memory removes those files at each restartpoint.
 */
import { readdirSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { Policy } from "../../src/domain/plan.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import { cyclesLater, onMajor, QUICK, untilRecorded } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { failOver, keptStreams, promisedStreams, untilStaged } from "../support/steps.ts";
import { waitForReplay } from "../support/wal.ts";

onMajor(13, (major) => {
  test("a slot loaded from its file after catalogs were rewritten under an open transaction sends its rows with the right tables and columns (I16, K5)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table named (id int primary key)");
    await createLogicalSlot(primary, "moved");
    const open = await primary.connect();
    onTestFinished(() => open.end().catch(() => {}));
    await open.query("begin");
    await changeCatalogs(open);
    await open.query("create table made (id int primary key, note text)");
    const sidecar = await startSidecar(standby, { nap: QUICK });
    await untilStaged(sidecar, "moved");
    await rewriteCatalogs(primary);
    await restartWithoutMappings(cluster);
    await sidecar.untilSlot("moved", "synced");
    await open.query("insert into renamed values (2, 'two')");
    await open.query("insert into made values (3, 'three')");
    await open.query("commit");
    await expectSame(cluster, sidecar, "moved");
  });
});

onMajor(
  15,
  (major) => {
    test("catalogs rewritten before the start that loads a slot and the guards cost neither that slot nor one that is made out of a guard its tables and columns (I16, G2, K5)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table named (id int primary key)");
      await createLogicalSlot(primary, "moved");
      // the guards are made from its file: past its own birth they serve others at once
      for (const _ of [1, 2, 3]) {
        await primary.query("checkpoint");
        await readSlot(primary, "moved");
      }
      const first = await startSidecar(standby, { nap: QUICK });
      await untilStaged(first, "moved");
      await first.until("the guards to be staged", ({ restart }) => restart?.guards === 2);
      await first.stop();
      // nobody stages its file: only the guards will reach back to it
      await createLogicalSlot(primary, "made_late");
      const client = await primary.connect();
      onTestFinished(() => client.end().catch(() => {}));
      await client.query("begin");
      await changeCatalogs(client);
      await client.query("insert into renamed values (2, 'two')");
      await client.query("commit");
      await rewriteCatalogs(primary);
      await restartWithoutMappings(cluster);
      const sidecar = await startSidecar(standby, { nap: QUICK, stateDirectory: first.stateDirectory });
      await sidecar.untilSlot("moved", "synced");
      await sidecar.untilSlot("made_late", "guarded");
      await expectSame(cluster, sidecar, "moved", "made_late");
    });
  },
  12,
);

describeEach([16], usedOf([16]), (major) => {
  test("on 16, where the operator has slots come by their files, catalogs that were rewritten before the guard was made cost such a slot nothing (I16, K5)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table named (id int primary key)");
    await createLogicalSlot(primary, "moved");
    const client = await primary.connect();
    onTestFinished(() => client.end().catch(() => {}));
    await client.query("begin");
    await changeCatalogs(client);
    await client.query("insert into renamed values (2, 'two')");
    await client.query("commit");
    await rewriteCatalogs(primary);
    await restartWithoutMappings(cluster);
    const policy: Policy = {
      ...{ guardDatabases: "auto", duty: 0.05, provision: "file", restarts: false },
      ...{ onConflict: "adopt", releaseAfterMs: null },
    };
    const sidecar = await startSidecar(standby, { nap: QUICK, policy });
    await untilStaged(sidecar, "moved");
    await standby.restart();
    await sidecar.untilSlot("moved", "synced");
    await expectSame(cluster, sidecar, "moved");
  });
});

async function changeCatalogs(client: { query: (sql: string) => Promise<unknown> }): Promise<void> {
  await client.query("alter table named rename to renamed");
  await client.query("alter table renamed add column note text");
}

/** Moves the rows of the catalogs that say which table and which columns a row is of. */
async function rewriteCatalogs(primary: PgServer): Promise<void> {
  for (const catalog of ["pg_class", "pg_attribute"])
    await primary.query(`vacuum full pg_catalog.${catalog}`);
}

function mappingsIn(server: PgServer): string[] {
  return readdirSync(path.join(server.dataDir, "pg_logical/mappings")).toSorted();
}

/** Restarts the standby with a restartpoint before, at which it removes what no slot in its memory needs. */
async function restartWithoutMappings({ primary, standby }: TestCluster): Promise<void> {
  expect(mappingsIn(primary)).not.toEqual([]);
  await primary.query("checkpoint");
  await waitForReplay(primary, standby);
  await standby.query("checkpoint");
  expect(mappingsIn(standby), "a standby without a slot keeps none").toEqual([]);
  await standby.restart();
}

/** Fails over once the slot is recorded, and compares what it sends with what the primary's own would have. */
async function expectSame(cluster: TestCluster, sidecar: TestSidecar, ...names: string[]): Promise<void> {
  await untilRecorded(sidecar, cluster.primary, ...names);
  await cyclesLater(sidecar);
  await sidecar.until("all to be ready", ({ ready }) => ready);
  const promised = await promisedStreams(cluster, ...names);
  expect(promised.get(names[0] ?? "")?.join("\n")).toContain("renamed: INSERT");
  await failOver(cluster, sidecar);
  expect(await keptStreams(cluster.standby, names)).toEqual(promised);
}
