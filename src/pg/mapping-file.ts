// The files of logical rewrite mappings, pg_logical/mappings/: rewriteheap.c and reorderbuffer.c of PostgreSQL 9.4 to 18. A rewrite of a catalog
// (VACUUM FULL, CLUSTER) notes in them where each row went that a recent transaction has written; decoding that transaction looks there.
import { type Lsn, parseLsn } from "../domain/lsn.ts";

/**
 * sizeof(LogicalRewriteMappingData): old and new file of the table (three oids each), old and new place of the row (6 bytes each). There is
 * no header and no checksum.
 */
export const MAPPING_BYTES = 36;

/** LOGICAL_REWRITE_FORMAT: database, table, where the rewrite began, the transaction whose rows moved, the one that moved them. */
const NAME = /^map-[0-9a-f]{1,8}-[0-9a-f]{1,8}-([0-9A-F]{1,8})_([0-9A-F]{1,8})-[0-9a-f]{1,8}-[0-9a-f]{1,8}$/;

/** Where the rewrite began, by the file's name; null for any other name (I13). PostgreSQL removes files from before all slots' restart_lsn. */
export function rewriteBegan(name: string): Lsn | null {
  const match = NAME.exec(name);
  return match ? parseLsn(`${match[1]}/${match[2]}`) : null;
}

/** Whether these whole mappings have one that was never written: no table's file has the number 0. */
export function hasHole(mappings: Uint8Array): boolean {
  const view = Buffer.from(mappings.buffer, mappings.byteOffset, mappings.byteLength);
  for (let at = 0; at + MAPPING_BYTES <= view.length; at += MAPPING_BYTES)
    if (view.readUInt32LE(at + 8) === 0) return true;
  return false;
}
