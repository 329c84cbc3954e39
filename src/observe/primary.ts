/** What the primary looks like now: one query, one round trip (I12). */
import { type Lsn, parseLsn, parseLsnOrNull } from "../domain/lsn.ts";
import { PIN_PREFIX } from "../domain/names.ts";
import type { PrimaryView } from "../domain/observation.ts";
import { REGISTRY_TABLE, type Registry, registryOf, untrustedOwner } from "../domain/registry.ts";
import { parseXid } from "../domain/xid.ts";
import { describeError } from "../pg/errors.ts";
import type { RegistryState } from "../pg/registry-sql.ts";
import { type SlotRow, toLogicalSlots } from "../pg/rows.ts";
import type { PgSession } from "../pg/session.ts";
import { pollPrimary, primaryPulse } from "../pg/sql.ts";

interface ServerRow {
  in_recovery: boolean;
  system_identifier: string;
  wal_level: string;
  wal_lsn: string | null;
  timeline: string | null;
  may_snapshot: boolean | null;
  may_read_files: boolean;
  /** On 17: `{"xid": "database"}`; NULL where there are none. */
  prepared: string | null;
  /** NULL before 17, and where there are none. */
  stalled_standby_slots: string | null;
  oldest_xid: string | null;
  registry: RegistryState;
  role_ident: string;
}

/** Sessions with a primary whose registry can be read: the next poll there reads it in the same round trip. */
const readers = new WeakSet<PgSession>();

interface Poll {
  feedback: { holds_rows: boolean; slots_digest: string };
  server: ServerRow;
  slots: SlotRow[];
  /** Null when the registry was left out. */
  flags: { name: unknown }[] | null;
}

async function poll(session: PgSession, physicalSlot: string, withRegistry: boolean): Promise<Poll> {
  const [[feedback] = [], [server] = [], slots, , flags] = (await session.script<object>(
    pollPrimary(session.serverVersionNum, physicalSlot, PIN_PREFIX, withRegistry),
    {
      what: "polling the primary",
    },
  )) as [
    { holds_rows: boolean; slots_digest: string }[],
    ServerRow[],
    SlotRow[],
    object[]?,
    { name: unknown }[]?,
  ];
  if (!server || !feedback) throw new Error("the primary's answer is incomplete");
  return { feedback, server, slots, flags: flags ?? null };
}

/**
 * Polls the primary. `physicalSlot` is the standby's `primary_slot_name` ("" when unset).
 * Throws what the session throws; a server in recovery is a view like any other, for the prerequisites to judge, and so is one whose
 * registry cannot be read.
 */
export async function observePrimary(session: PgSession, physicalSlot: string): Promise<PrimaryView> {
  if (!readers.has(session)) {
    const seen = await poll(session, physicalSlot, false);
    if (seen.server.registry !== "readable") return viewOf(session, physicalSlot, seen, null);
    readers.add(session);
  }
  try {
    return viewOf(session, physicalSlot, await poll(session, physicalSlot, true), null);
  } catch (error) {
    if (!session.usable) throw error;
    // gone since, or in somebody's hands: the rest of the poll must not fail with it
    readers.delete(session);
    return viewOf(session, physicalSlot, await poll(session, physicalSlot, false), describeError(error));
  }
}

/** `failure`: why the registry, which the last poll could have read, was not. */
function registryIn({ server, flags }: Poll, { database }: PgSession, failure: string | null): Registry {
  if (flags !== null) return registryOf(flags.map(({ name }) => name));
  const { registry, role_ident: role } = server;
  switch (registry) {
    case "denied":
      return {
        kind: "unreadable",
        why: `GRANT USAGE ON SCHEMA slotsync TO ${role}; GRANT SELECT ON ${REGISTRY_TABLE} TO ${role}; in database "${database}" on the primary`,
      };
    case "untrusted":
      return { kind: "unreadable", why: untrustedOwner(database, role) };
    case "foreign":
      return {
        kind: "unreadable",
        why: `${REGISTRY_TABLE} in database "${database}" on the primary is not the table that slotsync flag makes (one with a name of type text, without row security): DROP it, and flag the slots again`,
      };
    case "readable":
      return { kind: "unreadable", why: failure ?? "the primary's answer is incomplete" };
    default:
      return { kind: "absent", database };
  }
}

function viewOf(session: PgSession, physicalSlot: string, seen: Poll, failure: string | null): PrimaryView {
  const { feedback, server, slots } = seen;
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
          walsender: physical.active_pid,
          // what it holds since a moment ago, it may not have held when the rest was read
          catalogXmin:
            physical.catalog_xmin === null || !feedback.holds_rows ? null : parseXid(physical.catalog_xmin),
        }
      : null,
    slots: all.filter(({ temporary }) => !temporary),
    registry: registryIn(seen, session, failure),
    maySnapshot: server.may_snapshot ?? false,
    polledAs: { role: server.role_ident, database: session.database },
    mayReadFiles: server.may_read_files,
    prepared: parsePrepared(server.prepared),
    stalledStandbySlots: server.stalled_standby_slots?.split(",") ?? [],
    remembered: false,
    slotsDigest: feedback.slots_digest,
    oldestXid: parseXid(server.oldest_xid ?? "0"),
    pins: all.flatMap(({ name, temporary, activePid }) =>
      temporary && name.startsWith(PIN_PREFIX) ? [{ name, pid: activePid }] : [],
    ),
  };
}

function parsePrepared(text: string | null): PrimaryView["prepared"] {
  if (text === null) return [];
  const databases = JSON.parse(text) as Record<string, string>;
  return Object.entries(databases).map(([xid, database]) => ({ database, xid: parseXid(xid) }));
}

/** What tells whether the primary has done anything since. */
export interface PrimaryPulse {
  /** Null when it is a primary no more. */
  walLsn: Lsn | null;
  /** Of all its logical slots: what is done to them need not write WAL. */
  slotsDigest: string;
}

/** The short question asked during a nap. Throws what the session throws. */
export async function askPulse(session: PgSession): Promise<PrimaryPulse> {
  const [[row] = []] = await session.script<{ wal_lsn: string | null; slots_digest: string }>(
    primaryPulse(session.serverVersionNum),
    { what: "asking the primary for its WAL position" },
  );
  return { walLsn: row ? parseLsnOrNull(row.wal_lsn) : null, slotsDigest: row?.slots_digest ?? "" };
}
