/** Why a slot that is here may not serve after a failover, each as a verdict; null where there is no doubt. */
import { tellsRowsRemoved } from "./capability.ts";
import { idleTooLong } from "./idle.ts";
import type { Provision } from "./journal.ts";
import { bytesBeyond, formatLsn, type Lsn } from "./lsn.ts";
import type { PlanInput } from "./plan.ts";
import { completeBackoffKey, pluginBackoffKey } from "./plan-guard.ts";
import { feedbackNow, type Original, proofNow } from "./proof.ts";
import { type Verdict, waiting } from "./protection.ts";
import type { StandbySlot } from "./slot.ts";
import { xidPrecedesOrEquals } from "./xid.ts";

/** The first doubt about one of our slots, or null. `original` is the primary's slot of its name. */
export function doubtsOf(
  local: StandbySlot,
  provision: Provision,
  original: Original | null,
  input: PlanInput,
): Verdict | null {
  return (
    incomplete(local, provision, original, input) ??
    rowsUnproven(local, provision, original, input) ??
    soonRemoved(local, input) ??
    idleTooLong(local, input.standby)
  );
}

/** I1 would put the slot past the end of WAL here: transactions that the subscriber has and this standby lacks. */
export function notFlushed(confirmed: Lsn, input: PlanInput): Verdict | null {
  if (bytesBeyond(input.standby.flushedLsn, confirmed) === 0) return null;
  return waiting(
    "wal_not_flushed",
    `the subscriber has confirmed ${formatLsn(confirmed)}, but this standby has WAL only up to ${formatLsn(input.standby.flushedLsn)}`,
  );
}

/** I2, I3: loaded from a file, a slot is safe only with its snapshot and its WAL. */
function incomplete(
  local: StandbySlot,
  provision: Provision,
  original: Original | null,
  input: PlanInput,
): Verdict | null {
  const proof = proofNow(provision, local, original, input);
  const failure = input.memory.backoff.get(completeBackoffKey(local.name));
  if (!proof.wal)
    return failure
      ? waiting(failure.reason, failure.detail)
      : waiting(
          "wal_or_rows_removed",
          `it was loaded from its file, and whether the WAL from ${formatLsn(provision.origin?.restartLsn ?? local.restartLsn ?? (0n as Lsn))} on is here is being looked into`,
        );
  if (!proof.start)
    return waiting(
      "no_consistent_snapshot",
      `it was loaded from its file without a snapshot that says which transactions were running at ${formatLsn(provision.origin?.restartLsn ?? (0n as Lsn))}: decoding may begin too late and skip changes. It is safe once it has moved past a point of this standby's own, for which its subscriber must go on and transactions that were running then must end`,
    );
  return null;
}

/**
 * I4: until this standby's feedback has reached the primary, the primary may remove catalog rows that the slot needs. Where the server
 * tells (16+), WAL that says so may be here and not replayed yet, and a promotion would replay it, whereupon the server invalidates the
 * slot: so what was written before the feedback took hold must have been replayed as well. Where nobody tells, it is proven.
 */
function rowsUnproven(
  local: StandbySlot,
  provision: Provision,
  original: Original | null,
  input: PlanInput,
): Verdict | null {
  const { primary, standby } = input;
  const told = tellsRowsRemoved(standby.serverVersionNum);
  if (primary.physicalSlot !== null) {
    const { name, catalogXmin } = primary.physicalSlot;
    if (
      catalogXmin === null ||
      local.catalogXmin === null ||
      !xidPrecedesOrEquals(catalogXmin, local.catalogXmin)
    )
      return waiting(
        "catalog_rows_unproven",
        `the primary's physical slot "${name}" has catalog_xmin ${catalogXmin ?? "NULL"}, and this slot needs catalog rows from ${local.catalogXmin ?? "an unknown transaction"} on: ${
          catalogXmin === null || told
            ? "the standby's feedback has not reached the primary yet (it is sent every wal_receiver_status_interval, which must not be 0)"
            : "they may be removed there; it is safe once its subscriber has gone on past that"
        }`,
      );
    const feedback = feedbackNow(input);
    const since = feedback?.since ?? primary.walLsn;
    if (told && standby.replayLsn < since)
      return waiting(
        "catalog_rows_unproven",
        `the standby's feedback has held the catalog rows on the primary since ${formatLsn(since)}, and replay has come to ${formatLsn(standby.replayLsn)} only: what is in between may say that rows are gone`,
      );
  }
  if (told || proofNow(provision, local, original, input).rows) return null;
  return waiting(
    "catalog_rows_unproven",
    primary.physicalSlot === null && !primary.remembered
      ? "nothing keeps catalog rows on the primary while this standby has no physical replication slot there"
      : `the standby's feedback holds catalog rows on the primary only since transaction ${feedbackNow(input)?.xid ?? "NULL"}, and this slot needs rows from ${local.catalogXmin ?? "an unknown transaction"} on, which may have been removed before: it is safe once it has moved past that`,
  );
}

/** I3: the checkpoint of a promotion will not spare the WAL that the slot needs, though until then it is all here. */
function soonRemoved({ restartLsn }: StandbySlot, { standby }: PlanInput): Verdict | null {
  if (standby.keptSegments === null || restartLsn === null) return null;
  const segmentOf = (lsn: Lsn) => lsn / BigInt(standby.walSegmentBytes);
  const segments = Number(segmentOf(standby.flushedLsn) - segmentOf(restartLsn));
  // one to spare, for what a promotion writes itself
  if (segments < standby.keptSegments) return null;
  return waiting(
    "wal_or_rows_removed",
    `max_slot_wal_keep_size on the standby keeps ${standby.keptSegments} WAL segments, and the slot needs ${segments + 1}: the next checkpoint may remove them; raise it there, or set it to -1`,
  );
}

/** True for a plugin that is known to load on this standby. pgoutput is part of the server. */
export function isPluginProven(plugin: string, { journal }: Pick<PlanInput, "journal">): boolean {
  return plugin === "pgoutput" || journal.plugins.includes(plugin);
}

/** Without its plugin nobody can read a slot after a promotion. */
export function pluginUnproven(plugin: string, input: PlanInput): Verdict | null {
  if (isPluginProven(plugin, input)) return null;
  const refused = input.memory.backoff.get(pluginBackoffKey(plugin));
  return refused
    ? waiting(refused.reason, refused.detail)
    : waiting("plugin_unproven", `whether output plugin "${plugin}" loads on this standby is being tried`);
}
