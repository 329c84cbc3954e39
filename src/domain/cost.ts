/**
 * What moving slots forward costs the standby (G4). The figures are estimates from measurements on PostgreSQL 16 (see bench/):
 * an advance that decodes nothing takes about 0.2 ms, decoding runs at about 2 GB/s, and creating or dropping a slot is
 * bounded by the fsyncs of its folder.
 */
import { bytesBetween, type Lsn } from "./lsn.ts";

const ADVANCE_BASE_MS = 0.25;
const DECODE_BYTES_PER_MS = 2_000_000;
const REPLACE_MS = 3;
const GUARD_BASE_MS = 1;

/** The share of the bucket that one sweep may save up, ms of server time. */
const BUDGET_CEILING_MS = 1_000;
/** What a single expensive advance may take from the common bucket; the rest it pays by waiting itself ({@link restAfter}). */
const HEAVY_MS = 500;

/** Estimated ms of server time to advance a slot: it decodes from its `restart_lsn`, not from its position. */
export function advanceCostMs(restart: Lsn, to: Lsn): number {
  return ADVANCE_BASE_MS + Math.max(0, bytesBetween(restart, to)) / DECODE_BYTES_PER_MS;
}

/** Estimated ms to bring `count` slots to the guard's new position by copying: the guard decodes once for all of them. */
export function rideCostMs(guardRestart: Lsn, to: Lsn, count: number): number {
  return GUARD_BASE_MS + advanceCostMs(guardRestart, to) + REPLACE_MS * count;
}

/** What `costMs` takes from the common bucket. */
export function bucketCharge(costMs: number): number {
  return Math.min(costMs, HEAVY_MS);
}

/** How long a slot whose advance costs `costMs` rests before its next one, so that alone it stays within `duty` of a core. */
export function restAfter(costMs: number, duty: number): number {
  return costMs <= HEAVY_MS ? 0 : costMs / duty;
}

/** The bucket of server time after `elapsedMs`: it fills at `duty` and may be overdrawn by the last thing taken out of it. */
export function refillBudget(budgetMs: number, elapsedMs: number, duty: number): number {
  return Math.min(BUDGET_CEILING_MS, budgetMs + elapsedMs * duty);
}
