/** What the primary looks like now: one query, one round trip (I12). */
import { type Lsn, parseLsn, parseLsnOrNull } from "../domain/lsn.ts";
import { PIN_PREFIX } from "../domain/names.ts";
import type { PrimaryView } from "../domain/observation.ts";
import { parseXid } from "../domain/xid.ts";
import { type SlotRow, toLogicalSlots } from "../pg/rows.ts";
import type { PgSession } from "../pg/session.ts";
import { PRIMARY_PULSE, pollPrimary } from "../pg/sql.ts";

interface ServerRow {
  in_recovery: boolean;
  system_identifier: string;
  wal_level: string;
  wal_lsn: string | null;
  timeline: string | null;
  may_snapshot: boolean | null;
  may_read_files: boolean;
  oldest_xid: string | null;
}

/**
 * Polls the primary. `physicalSlot` is the standby's `primary_slot_name` ("" when unset).
 * Throws what the session throws; a server in recovery is a view like any other, for the prerequisites to judge.
 */
export async function observePrimary(session: PgSession, physicalSlot: string): Promise<PrimaryView> {
  const [[feedback] = [], servers, slots] = (await session.script<object>(
    pollPrimary(session.serverVersionNum, physicalSlot, PIN_PREFIX),
    {
      what: "polling the primary",
    },
  )) as [{ holds_rows: boolean }[], ServerRow[], SlotRow[]];
  const server = servers[0];
  if (!server || !feedback) throw new Error("the primary's answer is incomplete");
  const all = toLogicalSlots(slots);
  const physical = slots.find((row) => row.slot_type === "physical" && row.name === physicalSlot);
  return {
    systemIdentifier: server.system_identifier,
    inRecovery: server.in_recovery,
    timeline: server.timeline === null ? 0 : Number.parseInt(server.timeline, 16),
    walLevel: server.wal_level,
    serverVersionNum: session.serverVersionNum,
    walLsn: parseLsn(server.wal_lsn ?? "0/0"),
    physicalSlot: physical
      ? {
          name: physical.name,
          active: physical.active,
          // what it holds since a moment ago, it may not have held when the rest was read
          catalogXmin:
            physical.catalog_xmin === null || !feedback.holds_rows ? null : parseXid(physical.catalog_xmin),
        }
      : null,
    slots: all.filter(({ temporary }) => !temporary),
    maySnapshot: server.may_snapshot ?? false,
    mayReadFiles: server.may_read_files,
    remembered: false,
    oldestXid: parseXid(server.oldest_xid ?? "0"),
    pins: all.flatMap(({ name, temporary, catalogXmin }) =>
      temporary && name.startsWith(PIN_PREFIX) && catalogXmin !== null ? [{ name, catalogXmin }] : [],
    ),
  };
}

/** The primary's WAL position, the short question asked during a nap; null when it is a primary no more. */
export async function primaryWalPosition(session: PgSession): Promise<Lsn | null> {
  const [[row] = []] = await session.script<{ wal_lsn: string | null }>(PRIMARY_PULSE, {
    what: "asking the primary for its WAL position",
  });
  return row ? parseLsnOrNull(row.wal_lsn) : null;
}
