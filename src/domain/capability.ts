/** What a major version can do, by name: rules read better than numbers. */

/** Logical slots can be created and copied while the server is a standby. */
export function createsOnStandby(serverVersionNum: number): boolean {
  return serverVersionNum >= 160_000;
}

/** `pg_copy_logical_replication_slot` exists: without it nothing can be made out of a guard. */
export function copiesSlots(serverVersionNum: number): boolean {
  return serverVersionNum >= 120_000;
}

/** The server itself gives up a logical slot on a standby that lost catalog rows (I4); before, nobody tells. */
export function tellsRowsRemoved(serverVersionNum: number): boolean {
  return serverVersionNum >= 160_000;
}
