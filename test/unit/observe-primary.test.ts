/** What is made of a poll of the primary. */
import { describe, expect, test } from "vitest";
import { observePrimary } from "../../src/observe/primary.ts";
import type { PgSession } from "../../src/pg/session.ts";

const SERVER = {
  ...{
    in_recovery: false,
    system_identifier: "1",
    wal_level: "logical",
    wal_lsn: "0/100",
    timeline: "00000001",
  },
  ...{
    may_snapshot: null,
    may_read_files: true,
    prepared: null,
    stalled_standby_slots: null,
    oldest_xid: "800",
  },
};
const PHYSICAL = {
  ...{
    name: "standby1",
    slot_type: "physical",
    plugin: null,
    database_oid: null,
    database: null,
    two_phase: false,
  },
  ...{ temporary: false, active: true, active_pid: 1, catalog_xmin: "700", restart_lsn: "0/90" },
  ...{ confirmed_flush_lsn: null, invalidation: null },
};

async function poll(holdsRows: boolean) {
  let sent = "";
  const script = async (sql: string) => {
    sent = sql;
    return [[{ holds_rows: holdsRows }], [SERVER], [PHYSICAL]];
  };
  const session = { serverVersionNum: 150_018, script } as unknown as PgSession;
  return { view: await observePrimary(session, "standby1"), sent };
}

test("the feedback is asked for before what is held against it, and counts only if it was there by then (I4)", async () => {
  const { view, sent } = await poll(true);
  expect(view.physicalSlot).toEqual({ name: "standby1", active: true, walsender: 1, catalogXmin: 700 });
  const order = ["holds_rows", "AS wal_lsn", "AS oldest_xid", "FROM pg_catalog.pg_replication_slots\n"];
  expect(order.map((part) => sent.indexOf(part)).toSorted((a, b) => a - b)).toEqual(
    order.map((part) => sent.indexOf(part)),
  );
  expect((await poll(false)).view.physicalSlot).toEqual({
    name: "standby1",
    active: true,
    walsender: 1,
    catalogXmin: null,
  });
});

/** A primary whose registry stands so at each look; polls that read it fail or answer as told. */
async function looks(states: (string | null)[], read: () => object[] | Error) {
  const sent: boolean[] = [];
  let at = 0;
  const session = {
    serverVersionNum: 150_018,
    database: "db1",
    usable: true,
    script: async (sql: string) => {
      const withRegistry = sql.includes("slotsync.failover_slot");
      sent.push(withRegistry);
      const server = {
        ...SERVER,
        registry: states[Math.min(at++, states.length - 1)],
        role_ident: '"Side car"',
      };
      const answer = [[{ holds_rows: true }], [server], []];
      if (!withRegistry) return answer;
      const rows = read();
      if (rows instanceof Error) throw rows;
      return [...answer, [{}], rows];
    },
  } as unknown as PgSession;
  const look = async () => (await observePrimary(session, "standby1")).registry;
  return { look, sent };
}

describe("the registry is read in the poll itself (I12)", () => {
  test("one query a cycle, but for the first one that finds it", async () => {
    const { look, sent } = await looks(["readable"], () => [{ name: "app" }, { name: "No" }]);
    expect(await look()).toEqual({ kind: "read", names: new Set(["app"]) });
    expect(sent.splice(0)).toEqual([false, true]);
    expect(await look()).toEqual({ kind: "read", names: new Set(["app"]) });
    expect(sent).toEqual([true]);
  });

  test.each([
    [null, { kind: "absent", database: "db1" }],
    [
      "denied",
      {
        kind: "unreadable",
        why: 'GRANT USAGE ON SCHEMA slotsync TO "Side car"; GRANT SELECT ON slotsync.failover_slot TO "Side car"; in database "db1" on the primary',
      },
    ],
    [
      "untrusted",
      {
        kind: "unreadable",
        why: expect.stringContaining('ALTER TABLE slotsync.failover_slot OWNER TO "Side car"'),
      },
    ],
    [
      "foreign",
      { kind: "unreadable", why: expect.stringContaining("is not the table that slotsync flag makes") },
    ],
  ])("%s: not touched, and said what it lacks", async (state, expected) => {
    const { look, sent } = await looks([state], () => new Error("touched"));
    expect(await look()).toEqual(expected);
    expect(sent).toEqual([false]);
  });

  test("it fails between two looks: the rest of the poll does not fail with it (I9)", async () => {
    let fails = false;
    const { look, sent } = await looks(["readable", "readable", "readable", null], () =>
      fails ? new Error("locked") : [{ name: "app" }],
    );
    expect(await look()).toMatchObject({ kind: "read" });
    fails = true;
    sent.length = 0;
    // two polls have told that it is there, the third fails, the fourth finds it gone
    expect(await look()).toEqual({ kind: "absent", database: "db1" });
    expect(sent).toEqual([true, false]);
    const locked = await looks(["readable"], () => new Error("locked"));
    expect(await locked.look()).toEqual({ kind: "unreadable", why: "locked" });
  });
});
