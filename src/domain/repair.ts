/**
 * What puts a native subscription right whose subscriber has confirmed more than the new primary has. It asks the new primary to go on at its
 * own position, which names other WAL there: what the new primary commits up to that number would be left out without a word.
 */
import type { FinishedSlot } from "./finish.ts";
import { isValidSlotName } from "./names.ts";

/** Those whose slot is here, so that the subscription can go on from it. */
const GOES_ON: readonly FinishedSlot["outcome"][] = [
  "kept",
  "kept_unproven",
  "advanced",
  "materialised",
  "in_use",
  "failed",
];

/**
 * The statements for one subscriber, or null where none are needed or none would help. `pg_subscription` is shared by all databases of a
 * server, and each of them may have a subscription of this name: only those of the database that one is connected to are touched, and of
 * these only what reads this slot and stands past the end.
 */
export function repairOf(line: Omit<FinishedSlot, "repair">): string | null {
  const { name, plugin, outcome, endOfWalLsn: end, certain, confirmedBeyondEndBytes } = line;
  if (confirmedBeyondEndBytes <= 0 || end === null || !certain || plugin !== "pgoutput") return null;
  if (!GOES_ON.includes(outcome) || !isValidSlotName(name)) return null;
  const mine = `s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND s.subslotname = '${name}'`;
  return [
    `-- On the subscriber of slot ${name}, as a superuser, connected to the database that holds the subscription.`,
    `-- It puts the subscription back to ${end}: up to there this primary has the same changes. What this primary`,
    "-- commits after that is then sent. Rows that the subscriber has from the lost part stay there and may",
    "-- conflict: compare the tables first. Below, the subscription is called like its slot: put its name instead",
    "-- if the first statement shows another, and go on only if it shows one row.",
    `-- It helps as long as this is true on this primary; if not, create the subscription anew with a copy of the data:`,
    `--   SELECT confirmed_flush_lsn <= '${end}' FROM pg_replication_slots WHERE slot_name = '${name}';`,
    `SELECT s.subname, pg_replication_origin_progress('pg_' || s.oid, false) AS position, s.subconninfo FROM pg_subscription s WHERE ${mine};`,
    `ALTER SUBSCRIPTION ${name} DISABLE;`,
    "-- repeat this until it returns no row: its worker has ended",
    `SELECT a.pid FROM pg_stat_subscription a JOIN pg_subscription s ON s.oid = a.subid WHERE ${mine} AND a.pid IS NOT NULL;`,
    `SELECT s.subname, pg_replication_origin_advance('pg_' || s.oid, '${end}') FROM pg_subscription s WHERE ${mine} AND pg_replication_origin_progress('pg_' || s.oid, false) > '${end}';`,
    "-- then let it connect to this primary (ALTER SUBSCRIPTION … CONNECTION '…'), and",
    `ALTER SUBSCRIPTION ${name} ENABLE;`,
  ].join("\n");
}
