/** What a major version can do, by name: rules read better than numbers. */

/** Logical slots can be created and copied while the server is a standby. */
export function createsOnStandby(serverVersionNum: number): boolean {
  return serverVersionNum >= 160_000;
}

/** `pg_copy_logical_replication_slot` exists: without it nothing can be made out of a guard. */
export function copiesSlots(serverVersionNum: number): boolean {
  return serverVersionNum >= 120_000;
}

/** The server syncs slots that are flagged `failover` by itself, by its worker or by `pg_sync_replication_slots()`. */
export function syncsByServer(serverVersionNum: number): boolean {
  return serverVersionNum >= 170_000;
}

/**
 * What the server syncs carries the position from which on a slot sends prepared transactions as such (`two_phase_at`). 17 leaves it out:
 * one that was prepared before, and is committed after a promotion, is never sent there.
 */
export function syncsTwoPhaseExactly(serverVersionNum: number): boolean {
  return serverVersionNum >= 180_000;
}

/** Checkpoints give up slots that nobody has used for `idle_replication_slot_timeout`. */
export function givesUpIdle(serverVersionNum: number): boolean {
  return serverVersionNum >= 180_000;
}

/** The server itself gives up a logical slot on a standby that lost catalog rows (I4); before, nobody tells. */
export function tellsRowsRemoved(serverVersionNum: number): boolean {
  return serverVersionNum >= 160_000;
}

/** The first minor releases in which a slot is not created out of another slot's snapshot any more. */
const MENDED_IN: Readonly<Record<number, number>> = { 12: 20, 13: 16, 14: 13, 15: 8, 16: 4 };

/** A new slot finds its consistent point by itself, whatever snapshots other slots have left behind its beginning (I2 e). */
export function startsByItself(serverVersionNum: number): boolean {
  const major = Math.floor(serverVersionNum / 10_000);
  return major >= 17 || serverVersionNum % 10_000 >= (MENDED_IN[major] ?? Number.POSITIVE_INFINITY);
}

/**
 * The first minor releases in which `pg_replication_slot_advance` moves a slot's `catalog_xmin` no further than real decoding does (May
 * 2025). 11 and 12 were never mended.
 */
const ADVANCE_MENDED_IN: Readonly<Record<number, number>> = { 13: 21, 14: 18, 15: 13, 16: 9, 17: 5 };

/** False where to advance a slot may let go of catalog rows that it still needs: of transactions that were open then (I4). */
export function advanceKeepsRows(serverVersionNum: number): boolean {
  const major = Math.floor(serverVersionNum / 10_000);
  return major >= 18 || serverVersionNum % 10_000 >= (ADVANCE_MENDED_IN[major] ?? Number.POSITIVE_INFINITY);
}

/** The release to upgrade to for that, or null where there is none of the same major version. */
export function advanceMendedIn(serverVersionNum: number): string | null {
  const major = Math.floor(serverVersionNum / 10_000);
  const minor = ADVANCE_MENDED_IN[major];
  return minor === undefined ? null : `${major}.${minor}`;
}
