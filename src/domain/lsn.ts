/** A byte position in the write-ahead log. Compared and subtracted as a bigint; text only at the edges. */
export type Lsn = bigint & { readonly __lsn: unique symbol };

const LSN_TEXT = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/** Parses PostgreSQL's `XXX/XXX` form. Throws RangeError on anything else. */
export function parseLsn(text: string): Lsn {
  const match = LSN_TEXT.exec(text);
  if (!match?.[1] || !match[2]) throw new RangeError(`not an LSN: ${JSON.stringify(text)}`);
  return ((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`)) as Lsn;
}

/** Like {@link parseLsn}, passing SQL's NULL through. */
export function parseLsnOrNull(text: string | null): Lsn | null {
  return text === null ? null : parseLsn(text);
}

/** PostgreSQL's own spelling: upper-case hexadecimal, no leading zeros. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}

/** Bytes from `from` up to `to`; negative when `to` lies before `from`. */
export function bytesBetween(from: Lsn, to: Lsn): number {
  return Number(to - from);
}

/** MAXALIGN in c.h: records begin and end at multiples of it. */
const ALIGNMENT = 8n;

/**
 * Clients confirm positions at which no record can begin: a well-known one adds 1 to the end of what it has. A slot there sends the
 * records from the next multiple of 8 on.
 */
function firstSent(confirmed: Lsn): Lsn {
  return (((confirmed + ALIGNMENT - 1n) / ALIGNMENT) * ALIGNMENT) as Lsn;
}

/** And who confirmed it has nothing that ends past the multiple of 8 before. */
export function lastHad(confirmed: Lsn): Lsn {
  return (confirmed - (confirmed % ALIGNMENT)) as Lsn;
}

/** True when a slot at `a` skips what one at `b` sends (I1). */
export function isAhead(a: Lsn, b: Lsn): boolean {
  return firstSent(a) > firstSent(b);
}

/** Bytes of WAL past `end` that a subscriber with this position has something of; 0 for none. */
export function bytesBeyond(end: Lsn, confirmed: Lsn): number {
  return lastHad(confirmed) > end ? bytesBetween(end, confirmed) : 0;
}

/** The least of the given positions. Throws RangeError when there is none. */
export function minLsn(...lsns: Lsn[]): Lsn {
  const [first, ...rest] = lsns;
  if (first === undefined) throw new RangeError("minLsn of nothing");
  let least = first;
  for (const lsn of rest) if (lsn < least) least = lsn;
  return least;
}

/** The greater of two positions. */
export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
