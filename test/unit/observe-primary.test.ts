/** What is made of a poll of the primary. */
import { expect, test } from "vitest";
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
  ...{ may_snapshot: null, may_read_files: true, oldest_xid: "800" },
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
  expect(view.physicalSlot).toEqual({ name: "standby1", active: true, catalogXmin: 700 });
  const order = ["holds_rows", "AS wal_lsn", "AS oldest_xid", "FROM pg_catalog.pg_replication_slots\n"];
  expect(order.map((part) => sent.indexOf(part)).toSorted((a, b) => a - b)).toEqual(
    order.map((part) => sent.indexOf(part)),
  );
  expect((await poll(false)).view.physicalSlot).toEqual({
    name: "standby1",
    active: true,
    catalogXmin: null,
  });
});
