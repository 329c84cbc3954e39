/**
 * When a slot of ours that was born by SQL, or on the primary as a pin, may be copied to a failover slot's name (I2, K4).
 *
 * A slot is created while transactions run, and PostgreSQL's snapshot builder takes no notice of commits until those of its first
 * running-transactions record have ended: catalog changes that are committed meanwhile are missing in the historic snapshots that it
 * hands out (`SnapBuildCommitTxn`, `xact_decode`). Nor does it build another one before the next catalog change, so that rows of
 * transactions that begin long afterwards are sent by the catalogs of before as well. Whoever decodes from the `restart_lsn` of the birth
 * meets the same records and does the same.
 *
 * A serialized snapshot lacks nothing: it is written at a running-transactions record after the consistent point, with the `xmin` of the
 * record before. That one is no older than the consistent point, which is reached only once the oldest running transaction began after
 * the last state of the builder was entered: all that it took no notice of lies before `xmin`, where the commit log decides. So a slot
 * counts once its `restart_lsn` is the position of a serialized snapshot: when it has moved, for the server moves it nowhere else, or
 * when the file is there. It does not pass the beginning of a transaction that is still open.
 */
import type { Beginning, JournalState, Provision } from "./journal.ts";
import { formatLsn, type Lsn } from "./lsn.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { type Verdict, waiting } from "./protection.ts";
import { type StandbySlot, slotNamed } from "./slot.ts";

/** Whether decoding from where the slot begins sends every row by the catalogs of its time: then it may be copied to another's name. */
export function isSettled({ origin, beginning }: Provision, { restartLsn }: StandbySlot): boolean {
  if (restartLsn === null) return false;
  if (origin !== null) return origin.snapshot === "kept" || restartLsn > origin.restartLsn;
  // a crash of the standby may take it back
  return beginning.settled !== null && restartLsn >= beginning.settled;
}

/** What is known of a slot's beginning after a look. `snapshots` are the positions of serialized ones here, where they were asked for. */
export function beginningNow(
  { origin, beginning }: Provision,
  { restartLsn: restart }: StandbySlot,
  { snapshots = null }: Pick<StandbyView, "snapshots">,
): Beginning {
  if (origin !== null || restart === null || beginning.settled !== null) return beginning;
  const { seen } = beginning;
  const moved = seen !== null && restart > seen;
  if (moved || snapshots?.has(restart)) return { seen, settled: restart };
  return seen === restart ? beginning : { seen: restart, settled: null };
}

/** Slots here that were made by SQL and are not known to count: worth a look for their snapshots. */
export function hasUnsettled(
  { guards, slots }: Pick<JournalState, "guards" | "slots">,
  standby: Pick<StandbyView, "slots">,
): boolean {
  const records = [...Object.values(guards), ...slots.values()];
  return records.some((record) => {
    if (record.origin !== null || ("served" in record && (record.served || record.state !== "owned")))
      return false;
    const local = slotNamed(standby.slots, record.name);
    return local !== undefined && !isSettled(record, local);
  });
}

/** Why a guard protects nobody yet, with the oldest of the transactions that it may be waiting for. */
export function newborn(database: string, restartLsn: Lsn, primary: PrimaryView): Verdict {
  return waiting(
    "no_consistent_snapshot",
    `the guard of database "${database}" is new, and rows that are decoded from its beginning at ${formatLsn(restartLsn)} may lack columns that were added while it was being made: it counts once its restart_lsn has moved on, for which the transactions must end that were open then${openOnes(primary)}`,
  );
}

/** … and why a slot does not that was copied from one. */
export function copiedTooEarly(restartLsn: Lsn): Verdict {
  return waiting(
    "no_consistent_snapshot",
    `it begins at ${formatLsn(restartLsn)}, where this standby has no serialized snapshot: it may have been copied from a guard that had just been made, and then rows lack columns that were added at that time. It is safe once its subscriber has gone on`,
  );
}

function openOnes({ openTransactions = [] }: PrimaryView): string {
  if (openTransactions.length === 0) return "";
  return ` (the oldest on the primary now: ${openTransactions.map(({ who, database, seconds }) => `${who} in database "${database}", open for ${seconds} s`).join("; ")})`;
}
