/**
 * Slots of native subscriptions' table syncs. From 14 on each table that is added to a subscription is copied through a slot of its own,
 * `pg_<subscription's oid>_sync_<table's oid>_<system identifier>`, all three the subscriber's (`ReplicationSlotNameForTablesync` in
 * tablesync.c). It is there from before the copy until the table has caught up with the subscription. Pure.
 *
 * What a failover makes of the table goes by its state in `pg_subscription_rel` (`LogicalRepSyncTableStart`):
 * - `d`, it is being copied: PostgreSQL drops the slot, where there is one, and copies the table again. The slot is not needed.
 * - `f`, the copy is done (`SUBREL_STATE_FINISHEDCOPY`): PostgreSQL goes on from the slot, and without it fails for ever.
 * The copy reads in a transaction on the primary that ends before `f` is committed: while that is open, the state is `d`.
 */
import type { PrimarySlot } from "./slot.ts";

/** Whose slot it is. Both oids are the subscriber's. */
export interface TableSync {
  subscription: number;
  table: number;
}

/** The plugin of native subscriptions. */
const NATIVE_PLUGIN = "pgoutput";
const TABLE_SYNC_NAME = /^pg_(\d{1,10})_sync_(\d{1,10})_(\d{1,20})$/;

type Named = Pick<PrimarySlot, "name" | "plugin">;

/** Which table's sync the slot serves, or null for any other slot. */
export function tableSyncOf({ name, plugin }: Named): TableSync | null {
  const [, subscription, table] = (plugin === NATIVE_PLUGIN && TABLE_SYNC_NAME.exec(name)) || [];
  return subscription === undefined ? null : { subscription: Number(subscription), table: Number(table) };
}

/**
 * Names of the slots that the table sync may belong to: those of native subscriptions in its database, by name. The name of the
 * subscription is not in its own.
 */
export function subscriptionsOf(
  slot: Pick<PrimarySlot, "databaseOid">,
  slots: Iterable<Named & Pick<PrimarySlot, "databaseOid">>,
): string[] {
  const names: string[] = [];
  for (const each of slots)
    if (each.databaseOid === slot.databaseOid && each.plugin === NATIVE_PLUGIN && tableSyncOf(each) === null)
      names.push(each.name);
  return names.toSorted();
}

/** Whether the table is certainly still being copied, so that PostgreSQL copies it again after a failover, with the slot or without. */
export function isCopying(slot: PrimarySlot): boolean {
  return tableSyncOf(slot) !== null && (slot.confirmedFlushLsn === null || slot.copying === true);
}

/**
 * What is true of the slot's table after a promotion, for the gap report; null for any other slot. `here`: whether the slot came through,
 * at a position from which its subscriber can go on.
 */
export function tableAfterPromotion(slot: Named, here: boolean): string | null {
  const sync = tableSyncOf(slot);
  if (sync === null) return null;
  const whose = `it serves the initial sync of a table (oid ${sync.table} of the subscription with oid ${sync.subscription}, both on the subscriber), whose state pg_subscription_rel tells there`;
  return here
    ? `${whose}: in state d PostgreSQL copies the table again, in state f it goes on from this slot; without such a row, or in any other state, nobody uses the slot any more: SELECT pg_drop_replication_slot('${slot.name}') here`
    : `${whose}: in state d PostgreSQL copies the table again by itself; in state f THE TABLE NEVER SYNCS AGAIN without this slot, and one that is made now would leave changes out: have it copied again`;
}

/** The statements that have a table copied again whose copy had ended and whose slot has not come through; null for any other slot. */
export function tableRepair(slot: Named): string | null {
  const sync = tableSyncOf(slot);
  if (sync === null) return null;
  const { subscription, table } = sync;
  const row = `srsubid = ${subscription} AND srrelid = ${table}`;
  const alter = (what: string) =>
    `DO $$ BEGIN EXECUTE format('ALTER SUBSCRIPTION %I ${what}', (SELECT subname FROM pg_subscription WHERE oid = ${subscription})); END $$;`;
  return [
    `-- On the subscriber of slot ${slot.name}, as a superuser, connected to the database that holds the subscription`,
    "-- (the first statement returns a row there). Only where it shows state f: this empties the table on the subscriber,",
    "-- with rows of its own if it has any, and has it copied again. In state d PostgreSQL does that by itself.",
    `SELECT s.subname, r.srrelid::regclass AS table_name, r.srsubstate FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.${row.replace(" AND ", " AND r.")};`,
    alter("DISABLE"),
    "-- repeat this until it returns no row: its workers have ended",
    `SELECT pid FROM pg_stat_subscription WHERE subid = ${subscription} AND pid IS NOT NULL;`,
    `DO $$ BEGIN IF EXISTS (SELECT FROM pg_subscription_rel WHERE ${row} AND srsubstate = 'f') THEN EXECUTE 'TRUNCATE ' || ${table}::regclass; PERFORM pg_replication_origin_drop('pg_${subscription}_${table}'); UPDATE pg_subscription_rel SET srsubstate = 'd', srsublsn = NULL WHERE ${row}; END IF; END $$;`,
    "-- then let it connect to this primary (ALTER SUBSCRIPTION … CONNECTION '…'), and",
    alter("ENABLE"),
  ].join("\n");
}
