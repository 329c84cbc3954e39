/**
 * `VACUUM FULL` of catalogs moves their rows while a transaction that changed them is open, or before it is decoded. The server notes where
 * each row went in `pg_logical/mappings`, and a standby with no logical slot in memory removes those files at each restartpoint.
 */
import { readdirSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { cyclesLater, onMajor, QUICK, untilRecorded } from "../support/file-way.ts";
import { startSidecar, type TestSidecar, type TestSidecarOptions } from "../support/sidecar.ts";
import { failOver, keptStreams, promisedStreams, untilStaged } from "../support/steps.ts";
import { waitForReplay } from "../support/wal.ts";

for (const at of [13, 15])
  onMajor(at, (major) => {
    test("a slot loaded from its file after catalogs were rewritten under an open transaction sends its rows with the right tables and columns (I16, K5)", async () => {
      const cluster = await startCluster({ major });
      const { primary } = cluster;
      const { sidecar, open } = await stagedUnderDdl(cluster);
      await rewriteCatalogs(primary);
      expect(mappingsIn(primary)).not.toEqual([]);
      await restartWithoutMappings(cluster);
      await sidecar.untilSlot("moved", "synced");
      await open.query("insert into renamed values (2, 'two')");
      await open.query("insert into made values (3, 'three')");
      await open.query("commit");
      await expectSame(cluster, sidecar, "moved");
    });
  });

/** A staged slot, and a transaction that has changed catalogs and is open. */
async function stagedUnderDdl({ primary, standby }: TestCluster, options: TestSidecarOptions = {}) {
  await primary.query("create table named (id int primary key)");
  await primary.query("insert into named values (1)");
  await createLogicalSlot(primary, "moved");
  const open = await primary.connect();
  onTestFinished(() => open.end().catch(() => {}));
  await open.query("begin");
  await changeCatalogs(open);
  const sidecar = await startSidecar(standby, { nap: QUICK, ...options });
  await untilStaged(sidecar, "moved");
  return { sidecar, open };
}

async function changeCatalogs(client: { query: (sql: string) => Promise<unknown> }): Promise<void> {
  await client.query("alter table named rename to renamed");
  await client.query("alter table renamed add column note text");
  await client.query("create table made (id int primary key, note text)");
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
