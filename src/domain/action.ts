import { assertNever } from "./assert-never.ts";
import type { Lsn } from "./lsn.ts";
import { formatLsn } from "./lsn.ts";

/**
 * One thing to do on the standby. Data only: a dry run prints the same list that apply executes. `at` is where the slot was seen to
 * stand: one that somebody has put in its place in the meantime stands elsewhere, and is left alone (I7).
 */
export type Action =
  /** Create the guard of a database; runs beside the cycle, for it waits for a running-xacts record. */
  | { kind: "create_guard"; database: string; databaseOid: number; guard: string }
  /** Advance a guard (G1). */
  | {
      kind: "advance_guard";
      database: string;
      databaseOid: number;
      guard: string;
      to: Lsn;
      /** As for `advance`. */
      unsure: boolean;
    }
  /** Keep a temporary copy of the guard where it is now, for slots that are behind it. */
  | { kind: "create_hold"; database: string; databaseOid: number; hold: string; from: string }
  | { kind: "release_hold"; database: string; databaseOid: number; hold: string }
  /** See whether this standby can load an output plugin, by a copy of `from`, or where none can be made by looking for it. */
  | { kind: "probe_plugin"; database: string; databaseOid: number; plugin: string; from: string | null }
  /** Copy a failover slot out of `from`, at exactly `to` (G2b). */
  | {
      kind: "create";
      slot: string;
      database: string;
      databaseOid: number;
      plugin: string;
      from: string;
      to: Lsn;
    }
  /** Move our slot forward by decoding. */
  | {
      kind: "advance";
      slot: string;
      database: string;
      databaseOid: number;
      at: Lsn;
      to: Lsn;
      /** Its start is not proven: the server may wait for other people's transactions, so it goes alone and not for long. */
      unsure: boolean;
    }
  /** Move our slot forward by dropping it and copying the guard, which stands at `to` (G4). */
  | {
      kind: "replace";
      slot: string;
      database: string;
      databaseOid: number;
      plugin: string;
      guard: string;
      at: Lsn;
      to: Lsn;
    }
  /** Drop our slot. */
  | { kind: "drop"; slot: string; database: string; databaseOid: number; at: Lsn; why: string }
  /** Take over a slot of this node's own past: see whether its snapshot (I2) and its WAL (I3) are here, and write down that it is ours. */
  | {
      kind: "adopt";
      slot: string;
      database: string;
      databaseOid: number;
      plugin: string;
      twoPhase: boolean;
      at: Lsn;
      restart: Lsn;
      /** It stands where it was created, and needs no snapshot. */
      unmoved: boolean;
    }
  /** Drop a slot that is not ours, that nobody uses, and that has held WAL for longer than the operator wants. */
  | { kind: "release"; slot: string; database: string; databaseOid: number; restart: Lsn; why: string }
  /** Drop a slot we made for ourselves. */
  | { kind: "drop_leftover"; slot: string; database: string; databaseOid: number }
  /** One pass of the server's own slot sync (17+), over all databases; `state` is how the slots stood. */
  | { kind: "sync_slots"; database: string; databaseOid: number; state: string }
  /**
   * Put a slot file in place that the standby loads at its next start: the one of the primary's slot `source`, or for a guard where
   * the primary has none, that of a new temporary one.
   */
  | {
      kind: "stage";
      slot: string;
      database: string;
      databaseOid: number;
      source: string | null;
      /** For a guard, which of the two of its database. */
      guard: "fresh" | "low" | null;
      /** Staged before: its file is replaced by a newer one. */
      again: boolean;
    }
  /** Take a staged slot file away again. */
  | { kind: "unstage"; slot: string; database: string; databaseOid: number; why: string }
  /** Complete a slot that has been loaded from its file: its snapshot (I2), the WAL that is missing (I3). */
  | {
      kind: "complete";
      slot: string;
      database: string;
      databaseOid: number;
      restart: Lsn;
      /** WAL is needed up to here. */
      upTo: Lsn;
      snapshot: boolean;
    }
  /** Bring over the rewrite mappings that the primary wrote before the start that loaded this slot, from `restart` on (I16). */
  | {
      kind: "fetch_mappings";
      slot: string;
      database: string;
      databaseOid: number;
      restart: Lsn;
      /** Those of later rewrites are written here by replay. */
      upTo: Lsn;
    };

/** What is done to files, and not in a database. */
export type FileAction = Extract<Action, { kind: "stage" | "unstage" | "complete" | "fetch_mappings" }>;

const FILE_ACTIONS: readonly Action["kind"][] = ["stage", "unstage", "complete", "fetch_mappings"];

export function isFileAction(action: Action): action is FileAction {
  return FILE_ACTIONS.includes(action.kind);
}

/** One line for a dry run and the log. */
export function describeAction(action: Action): string {
  switch (action.kind) {
    case "create_guard":
      return `create guard "${action.guard}" in database "${action.database}"`;
    case "advance_guard":
      return `advance guard "${action.guard}" to ${formatLsn(action.to)}`;
    case "create_hold":
      return `hold the position of guard "${action.from}" in database "${action.database}" for slots behind it`;
    case "release_hold":
      return `release the hold in database "${action.database}": no slot needs it`;
    case "probe_plugin":
      return `see whether output plugin "${action.plugin}" loads here`;
    case "create":
      return `create slot "${action.slot}" from "${action.from}" at ${formatLsn(action.to)}`;
    case "advance":
      return `advance slot "${action.slot}" to ${formatLsn(action.to)}`;
    case "replace":
      return `replace slot "${action.slot}" by a copy of the guard at ${formatLsn(action.to)}`;
    case "drop":
      return `drop slot "${action.slot}": ${action.why}`;
    case "adopt":
      return `adopt slot "${action.slot}" at ${formatLsn(action.at)}, which is left from when this node was the primary`;
    case "release":
      return `release slot "${action.slot}": ${action.why}`;
    case "drop_leftover":
      return `drop leftover slot "${action.slot}"`;
    case "sync_slots":
      return "let the server sync the slots that are flagged to survive a failover";
    case "stage":
      return `stage ${action.guard ? "guard" : "slot"} "${action.slot}" for the next start of this standby${action.again ? ", anew" : ""}`;
    case "unstage":
      return `take back the staged slot "${action.slot}": ${action.why}`;
    case "complete":
      return `complete slot "${action.slot}", which was loaded at ${formatLsn(action.restart)}${action.snapshot ? ", by its snapshot" : ""}`;
    case "fetch_mappings":
      return `bring over the rewrite mappings that slot "${action.slot}" may need from ${formatLsn(action.restart)} on`;
    default:
      return assertNever(action);
  }
}
