/** What a server tells of its own past, to roles of few rights. */
import { describe, expect, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { readTimelineHistory, snapshotPositions } from "../../src/pg/server-history.ts";
import { openSession, type PgSession } from "../../src/pg/session.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { slotsOf } from "../support/slots.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions } from "../support/wal.ts";

async function openAs(server: PgServer, user: string, replication = false): Promise<PgSession> {
  return openSession(parseConnInfo(server.dsn("postgres", user)), {
    applicationName: "pg-slotsync test",
    statementTimeoutMs: 5_000,
    queryTimeoutMs: 6_000,
    connectTimeoutMs: 5_000,
    replication,
  });
}

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("snapshots are listed where the role may, and a timeline's history is told to every role that may replicate (I2, I12)", async () => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("create table t (id int)");
    await createLogicalSlot(primary, "read");
    await primary.query("create role bare login replication");
    const all = await openAs(primary, "postgres");
    await eventually(
      async () => {
        // the slot moves to where a snapshot was written with one of the next reads
        await primary.query("insert into t values (1)");
        await logRunningTransactions(primary);
        await readSlot(primary, "read");
        const { restart } = (await slotsOf(primary)).get("read") ?? {};
        return (await snapshotPositions(all))?.includes(parseLsn(restart ?? ""));
      },
      { what: "the snapshot at which the slot stands" },
    );
    await all.close();
    const bare = await openAs(primary, "bare");
    expect(await snapshotPositions(bare)).toBeNull();
    expect(bare.usable).toBe(true);
    await bare.close();

    await primary.stop();
    standby.promote();
    await standby.waitPromoted();
    expect(await readTimelineHistory(() => openAs(standby, "bare", true), 2)).toEqual([
      { timeline: 1, until: expect.any(BigInt) },
    ]);
    await expect(readTimelineHistory(() => openAs(standby, "bare", true), 7)).rejects.toThrow(/timeline 7/);
  });
});
