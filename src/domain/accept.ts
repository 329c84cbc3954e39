/**
 * What whoever decides on a failover may accept by name instead of waiting (`check --accept`, `check --allow-empty`), and what each may
 * cost. Nothing is accepted that is not named, "cannot tell" no more than the rest; pure.
 */
import { type Answer, type Assessment, answer } from "./assess.ts";
import { NOTHING_CHOSEN } from "./choice.ts";
import { againstReadiness } from "./prerequisites.ts";
import type { Reason } from "./protection.ts";
import { type SlotStatus, standsAgainst } from "./status.ts";

export interface Leniency {
  /** Reasons of slots and codes of problems, as {@link whyNotAcceptable} lets through. */
  accept: ReadonlySet<string>;
  /** A primary that has no logical slot, but for what slots.exclude names, is let through. */
  allowEmpty: boolean;
}

/** Something that stands against being ready and was accepted. */
export interface Accepted {
  reason: string;
  /** Null for what concerns the standby as a whole. */
  slot: string | null;
  message: string;
  /** What a failover may lose by it. */
  cost: string;
}

const LOST = "the slot does not exist after the failover, and its subscriber has to be built anew";

const COST_OF_REASON: Record<Reason, string> = {
  wal_not_flushed:
    "the subscriber has changes that this standby lacks: its data differ, and it must be put back before it goes on (gap report)",
  wal_or_rows_removed: LOST,
  no_consistent_snapshot: LOST,
  slot_invalidated: LOST,
  name_conflict: LOST,
  catalog_rows_unproven: LOST,
  rewrite_mappings_unproven: LOST,
  database_missing: LOST,
  plugin_missing: LOST,
  plugin_unproven: LOST,
  plugin_refused: LOST,
  prepared_transactions_pending: LOST,
  permission_denied: LOST,
  too_many_slots: LOST,
  slot_in_use:
    "whoever uses the slot on this standby may move it past its subscriber, which then misses changes",
  idle_timeout: LOST,
  statement_failed: LOST,
  absent_on_primary: LOST,
  not_recorded: LOST,
  restart_pending: LOST,
};

const NOT_SYNCED =
  "nothing was synced while it lasted: slots that are not safe do not exist after the failover, and their subscribers have to be built anew";
const WRONG_SERVER =
  "which server the subscribers followed is not known: they may have changes that this standby lacks and that no report names, and any slot may be lost";
const UNSEEN =
  "what happened since is not known: subscribers may have changes that this standby lacks and that no report names, and slots made since are lost";

/** By the code of a problem that stands against being ready. */
const COST_OF_PROBLEM: Readonly<Record<string, string>> = {
  [NOTHING_CHOSEN]: "no slot is kept: every logical subscriber has to be built anew",
  registry_unreadable: "slots flagged since are not known, and lost",
  registry_missing: "slots flagged since are not known, and lost",
  version_unsupported: NOT_SYNCED,
  standby_wal_level: "no logical slot can be read on this standby after the failover, before it is restarted",
  feedback_off: NOT_SYNCED,
  primary_slot_name_unset: NOT_SYNCED,
  standby_settings_hidden: NOT_SYNCED,
  standby_permission_denied: NOT_SYNCED,
  primary_wal_level: NOT_SYNCED,
  physical_slot_missing: NOT_SYNCED,
  physical_slot_inactive: NOT_SYNCED,
  cascade_unproven: NOT_SYNCED,
  journal_not_writable: UNSEEN,
  sidecar_stalled: UNSEEN,
  journal_stale: UNSEEN,
  last_seen: NOT_SYNCED,
  system_identifier_differs: WRONG_SERVER,
  primary_in_recovery: WRONG_SERVER,
  journal_of_another_cluster: WRONG_SERVER,
  timeline_differs: WRONG_SERVER,
  timeline_hidden: WRONG_SERVER,
  split_brain: WRONG_SERVER,
};

/** Where nothing is known of the standby itself there is nothing that could be named, and so nothing to accept. */
const NEVER = ["cannot_tell", "standby_unreachable", "promoting"];

/** All that can be accepted, by name. */
export const ACCEPTABLE: readonly string[] = [
  ...Object.keys(COST_OF_REASON),
  ...Object.keys(COST_OF_PROBLEM),
].toSorted();

/** Why a name cannot be accepted, or null when it can. */
export function whyNotAcceptable(name: string): string | null {
  if (NEVER.includes(name))
    return `"${name}" cannot be accepted: nothing is known of the standby then, not even what would be lost`;
  return ACCEPTABLE.includes(name) ? null : `there is no reason or problem "${name}"`;
}

/** `check`'s answer where some things were accepted: 0 with the line that names each and its cost, or what else stands against it. */
export function answerAccepting(
  reading: Pick<Assessment, "status" | "certain">,
  slotName: string | undefined,
  { accept, allowEmpty }: Leniency,
): Answer & { accepted?: Accepted[] } {
  const { status } = reading;
  const against = againstReadiness(status.problems);
  const problems = against.filter(({ code }) => accept.has(code));
  const slots = status.slots.filter(
    (slot) =>
      (slotName === undefined || slot.name === slotName) &&
      standsAgainst(slot) &&
      accept.has(slot.reason ?? ""),
  );
  const isEmpty = allowEmpty && status.slots.length === 0 && status.undecided === 0;
  const left = against.filter(
    (each) => !problems.includes(each) && !(isEmpty && each.code === NOTHING_CHOSEN),
  );
  const rest = {
    status: {
      ...status,
      problems: [...left, ...status.problems.filter(({ severity }) => severity === "warning")],
      slots: status.slots.filter((slot) => !slots.includes(slot)),
    },
    // uncertain because of what is left, or because of nothing that has a name
    certain: reading.certain || (problems.length > 0 && left.length === 0),
  };
  const named = slots.some(({ name }) => name === slotName);
  const result = answer(rest, named ? undefined : slotName);
  const accepted = [
    ...problems.map(({ code, message }) => ({
      reason: code,
      slot: null,
      message,
      cost: COST_OF_PROBLEM[code] ?? LOST,
    })),
    ...slots.map(acceptedSlot),
  ];
  if (result.code !== 0) return { ...result, line: result.line + whyNotEmpty(reading, allowEmpty) };
  if (accepted.length > 0) return { code: 0, line: lineOf(accepted, named ? null : result.line), accepted };
  if (isEmpty && slotName === undefined)
    return { code: 0, line: "ready: the primary has no logical slot that could be lost (--allow-empty)" };
  return result;
}

function acceptedSlot({ name, protection, reason, detail }: SlotStatus): Accepted {
  const known = reason ?? "not_recorded";
  return {
    reason: known,
    slot: name,
    message: `"${name}" is ${protection}: ${detail}`,
    cost: COST_OF_REASON[known],
  };
}

function lineOf(accepted: readonly Accepted[], rest: string | null): string {
  const parts = accepted.map(
    ({ reason, message, cost }) => `${message} (accepted: ${reason}; it may cost: ${cost})`,
  );
  return `not safe, and accepted: ${parts.join("; ")}${rest === null ? "" : `; apart from that ${rest}`}`;
}

/** --allow-empty is no pardon for slots that nobody has said anything of. */
function whyNotEmpty({ status }: Pick<Assessment, "status">, allowEmpty: boolean): string {
  if (!allowEmpty || !status.problems.some(({ code }) => code === NOTHING_CHOSEN)) return "";
  if (status.undecided === null) return "; --allow-empty: which slots the primary has was never seen";
  return status.undecided === 0
    ? ""
    : `; --allow-empty: the primary has ${status.undecided} logical slot(s) that nothing chooses; choose them, or name them in slots.exclude`;
}
