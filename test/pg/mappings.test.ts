/** Logical rewrite mappings of a real primary, brought over to a standby that has removed its own or has them with a hole (I16). */
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { fetchMappings } from "../../src/apply/mappings.ts";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { rewriteBegan } from "../../src/pg/mapping-file.ts";
import { openSession } from "../../src/pg/session.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { waitForReplay } from "../support/wal.ts";

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("what is missing or has a hole is brought over, large files as well; what is older or newer than asked for is not, and other files are left alone (I16, I13)", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "holder");
    const open = await primary.connect();
    onTestFinished(() => open.end());
    await open.query("begin");
    const columns = Array.from({ length: 1_200 }, (_, index) => `c${index} int`);
    await open.query(`create table wide (${columns.join(", ")})`);
    await primary.query("vacuum full pg_catalog.pg_attribute");
    await primary.query("vacuum full pg_catalog.pg_class");
    await waitForReplay(primary, standby);
    const files = mappingsOf(primary);
    expect(Math.max(...files.map((name) => read(primary, name).length))).toBeGreaterThan(32 * 1024);
    expect(same(primary, standby), "replay writes them, slot or none").toEqual(files);

    const began = files.map((name) => rewriteBegan(name) ?? (0n as Lsn)).toSorted((a, b) => (a < b ? -1 : 1));
    const [first = 0n as Lsn, last = 0n as Lsn] = [began[0], began.at(-1)];
    const lose = () => {
      for (const name of files) rmSync(fileOf(standby, name));
    };
    lose();
    writeFileSync(fileOf(standby, "something else"), "");
    const fetched = async (restart: Lsn, upTo: Lsn, user?: string) => {
      const session = await openSession(parseConnInfo(primary.dsn("postgres", user)), {
        applicationName: "pg-slotsync test",
        connectTimeoutMs: 10_000,
        statementTimeoutMs: 10_000,
        queryTimeoutMs: 12_000,
      });
      try {
        const action = { slot: "x", database: "postgres", databaseOid: 5, restart, upTo };
        await fetchMappings([{ kind: "fetch_mappings", ...action }], { directory: standby.dataDir, session });
      } finally {
        await session.close();
      }
      return same(primary, standby);
    };
    expect(await fetched(last, last)).toEqual([]);
    expect(await fetched(first, last)).toEqual(files.filter((name) => (rewriteBegan(name) ?? 0n) < last));
    const end = (last + 1n) as Lsn;
    expect(await fetched(last, end)).toEqual(files);
    for (const name of files) {
      const holed = read(standby, name);
      holed.fill(0, 0, 36);
      writeFileSync(fileOf(standby, name), holed);
    }
    expect(await fetched(first, end)).toEqual(files);
    expect(mappingsOf(standby)).toEqual([...files, "something else"].toSorted());

    // a right that is missing is named, and nothing is taken for complete
    await primary.query("create role bare login replication");
    await expect(fetched(first, end, "bare")).rejects.toMatchObject({
      reason: "permission_denied",
      message: expect.stringContaining(
        major >= 15 ? "GRANT pg_monitor" : "pg_ls_dir(text, boolean, boolean)",
      ),
    });
    expect(parseLsn("0/1")).toBeLessThan(first);
  });
});

function mappingsOf(server: PgServer): string[] {
  return readdirSync(path.join(server.dataDir, "pg_logical/mappings")).toSorted();
}

function fileOf(server: PgServer, name: string): string {
  return path.join(server.dataDir, "pg_logical/mappings", name);
}

function read(server: PgServer, name: string): Buffer {
  return readFileSync(fileOf(server, name));
}

/** The files that both have, alike to the byte. */
function same(one: PgServer, other: PgServer): string[] {
  return mappingsOf(one).filter((name) => {
    const there = mappingsOf(other).includes(name);
    return there && read(one, name).equals(read(other, name));
  });
}
