/** Bounds of the nap between two cycles, in milliseconds. */
export interface NapBounds {
  minMs: number;
  maxMs: number;
}

/** The next nap: the shortest after a change, twice the last one while nothing changes (`wait_for_slot_activity` in slotsync.c). */
export function nextNap(changed: boolean, previousMs: number, bounds: NapBounds): number {
  if (changed) return bounds.minMs;
  return Math.min(bounds.maxMs, Math.max(bounds.minMs, previousMs * 2));
}

/** Reconnect or retry delay after `failures` failures in a row: 500 ms doubling to 15 s, spread by `random` in [0, 1). */
export function retryDelay(failures: number, random: number): number {
  const ceiling = Math.min(15_000, 500 * 2 ** Math.max(0, failures - 1));
  return Math.round(ceiling * (0.5 + random / 2));
}
