import { crc32c as castagnoli } from "@aws-crypto/crc32c";

/** PostgreSQL's CRC-32C (Castagnoli, port/pg_crc32c.h) of all the bytes, as an unsigned 32-bit number. */
export function crc32c(bytes: Uint8Array): number {
  return castagnoli(bytes);
}
