/** A 32-bit transaction id, as PostgreSQL shows it in `catalog_xmin`. */
export type Xid = number & { readonly __xid: unique symbol };

const FIRST_NORMAL_XID = 3;

/** Parses a decimal transaction id. Throws RangeError outside 0 … 2^32-1. */
export function parseXid(text: string): Xid {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 0xffffffff)
    throw new RangeError(`not a transaction id: ${JSON.stringify(text)}`);
  return value as Xid;
}

/**
 * True when `a` is older than or the same as `b`. Normal ids are compared modulo 2^32, as `TransactionIdPrecedesOrEquals` in
 * transam.c does (I4: ids wrap around); the permanent ids 0-2 precede every normal one.
 */
export function xidPrecedesOrEquals(a: Xid, b: Xid): boolean {
  if (a < FIRST_NORMAL_XID || b < FIRST_NORMAL_XID) return a <= b;
  return ((a - b) | 0) <= 0;
}
