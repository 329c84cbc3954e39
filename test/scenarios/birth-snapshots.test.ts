/**
 * Snapshot files are shared by position and never written twice: those of a slot that is born while catalogs change, a guard on the standby
 * or a pin on the primary, serve older slots as well (K4, I12).
 */
import { readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { bearInFlight } from "../support/births.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { testedMajors } from "../support/majors.ts";
import { peek, slotsOf } from "../support/slots.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions, pauseReplay, resumeReplay, waitForReplay } from "../support/wal.ts";

const CREATE = "select pg_catalog.pg_create_logical_replication_slot($1, 'test_decoding')";
const ADVANCE = "select pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)";

/** What historic snapshots are built of: below `xmin` the commit log decides, above it only these are committed. */
function contentOf(file: string, major: number): { xmin: number; committed: number[] } {
  const bytes = readFileSync(file);
  const [fixedBytes, countAt] = major >= 16 ? [144, 96] : major >= 14 ? [128, 96] : [144, 112];
  const count = Number(bytes.readBigUInt64LE(countAt));
  const xmin = bytes.readUInt32LE(32);
  const xids = Array.from({ length: count }, (_, index) => bytes.readUInt32LE(fixedBytes + 4 * index));
  return { xmin, committed: xids.filter((xid) => xid >= xmin).toSorted((a, b) => a - b) };
}

function snapshotsOf(server: PgServer): string[] {
  const directory = path.join(server.dataDir, "pg_logical/snapshots");
  return readdirSync(directory).map((name) => path.join(directory, name));
}

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test.each(major >= 16 ? ["standby", "primary"] : ["primary"])(
    "what a slot serializes that is born on the %s while catalogs change is what an older one does, and the older one reads on from it rightly (I12, K4)",
    async (where) => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      const server = where === "standby" ? standby : primary;
      await primary.query("create table t (id int primary key)");
      await primary.query("create table other (id int)");
      await waitForReplay(primary, standby);
      const arrive = async () => {
        // a commit takes along the records before it, which are not flushed by themselves
        await primary.query("insert into other values (1)");
        return waitForReplay(primary, standby);
      };
      const session = await server.connect();
      onTestFinished(() => session.end());
      const older = session.query(CREATE, ["older"]);
      await eventually(
        async () => {
          await logRunningTransactions(primary);
          return (await slotsOf(server)).get("older")?.confirmed;
        },
        { what: "the older slot" },
      );
      await older;
      const advance = async (name: string) => {
        for (let each = 0; each < 2; each += 1) {
          await logRunningTransactions(primary);
          await server.query(ADVANCE, [name, await waitForReplay(primary, standby)]);
        }
      };
      await advance("older");

      await arrive();
      const paused = server === standby;
      if (paused) await pauseReplay(standby);
      let born: Promise<unknown> = Promise.resolve();
      const { open } = await bearInFlight(
        primary,
        server,
        async () => {
          born = session.query(CREATE, ["newborn"]);
        },
        async () => {
          await eventually(async () => (await slotsOf(server)).get("newborn")?.restart, {
            what: "the creation",
          });
          if (paused) await resumeReplay(standby);
        },
      );
      await born;
      await open.query("alter table other add column more text; insert into t values (4, 'x')");
      await logRunningTransactions(primary);
      await open.query("commit");
      await open.end();
      await logRunningTransactions(primary);
      const end = await arrive();

      const before = new Set(snapshotsOf(server));
      await peek(server, "newborn");
      const fresh = () => snapshotsOf(server).filter((file) => !before.has(file));
      const serialized = (files: readonly string[]) =>
        new Map(files.map((file) => [path.basename(file), contentOf(file, major)]));
      const byNewborn = serialized(fresh());
      expect(byNewborn.size).toBeGreaterThan(1);
      for (const file of fresh()) rmSync(file);
      await peek(server, "older");
      const byOlder = serialized(fresh());
      for (const [name, content] of byNewborn) expect([name, byOlder.get(name)]).toEqual([name, content]);

      for (const file of fresh()) rmSync(file);
      await peek(server, "newborn");
      for (let each = 0; each < 2; each += 1) await server.query(ADVANCE, ["older", end]);
      const restart = (await slotsOf(server)).get("older")?.restart ?? "";
      expect([...byNewborn.keys()]).toContain(`${restart.replace("/", "-")}.snap`);
      await primary.query("insert into t values (5, 'with the column')");
      await waitForReplay(primary, standby);
      const rows = (await peek(server, "older"))
        .map(({ data }) => data)
        .filter((data) => data.includes("INSERT"));
      expect(rows).toEqual([expect.stringContaining("'with the column'")]);
    },
  );
});
