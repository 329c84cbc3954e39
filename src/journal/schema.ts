/** What a journal's body must look like, field by field. The names in it end up in drops and paths: nothing is taken on trust. */
import { z } from "zod";
import type { FinishOutcome } from "../domain/finish.ts";
import { PROVEN, UNPROVISIONED } from "../domain/journal.ts";
import { type Lsn, parseLsn } from "../domain/lsn.ts";
import { isOwnSlotName, isValidSlotName } from "../domain/names.ts";
import type { Protection, Reason } from "../domain/protection.ts";
import type { Alive } from "../domain/vouch.ts";
import type { Xid } from "../domain/xid.ts";

// each union spelt out once more: a word that the domain gains or loses does not compile until it is here too
const PROTECTIONS = { synced: 0, guarded: 0, waiting: 0, blocked: 0 } satisfies Record<Protection, 0>;
const REASONS = {
  wal_not_flushed: 0,
  wal_or_rows_removed: 0,
  no_consistent_snapshot: 0,
  slot_invalidated: 0,
  name_conflict: 0,
  catalog_rows_unproven: 0,
  rewrite_mappings_unproven: 0,
  database_missing: 0,
  plugin_missing: 0,
  plugin_unproven: 0,
  plugin_refused: 0,
  prepared_transactions_pending: 0,
  permission_denied: 0,
  too_many_slots: 0,
  slot_in_use: 0,
  idle_timeout: 0,
  statement_failed: 0,
  absent_on_primary: 0,
  not_recorded: 0,
  restart_pending: 0,
} satisfies Record<Reason, 0>;
const OUTCOMES = {
  kept: 0,
  advanced: 0,
  materialised: 0,
  kept_unproven: 0,
  dropped: 0,
  in_use: 0,
  moved_on: 0,
  not_ours: 0,
  not_protected: 0,
  failed: 0,
} satisfies Record<FinishOutcome, 0>;

const SIGNS = { wal: 0, message: 0, refusal: 0, looked: 0, unwatched: 0 } satisfies Record<Alive["how"], 0>;

function oneOf<T extends string>(words: Record<T, 0>) {
  return z.enum(Object.keys(words) as [T, ...T[]]);
}

const lsn = z.string().transform((text, context): Lsn => {
  try {
    return parseLsn(text);
  } catch (error) {
    context.addIssue((error as Error).message);
    return z.NEVER;
  }
});
const lsnText = z.string().refine(isLsnText, "not an LSN");
const ownSlotName = z
  .string()
  .refine((name) => isValidSlotName(name) && isOwnSlotName(name), "not a name of our own slots");
const count = z.int().nonnegative();
const oid = z.int().nonnegative().max(0xffff_ffff);
const time = z.number();
const reason = oneOf(REASONS);

function isLsnText(text: string): boolean {
  try {
    parseLsn(text);
    return true;
  } catch {
    return false;
  }
}

const xid = z
  .int()
  .nonnegative()
  .max(0xffff_ffff)
  .transform((value) => value as Xid);

const staged = z.strictObject({
  databaseOid: oid,
  plugin: z.string(),
  twoPhase: z.boolean(),
  restartLsn: lsn,
  confirmedFlushLsn: lsn,
  snapshot: z.enum(["kept", "absent", "unusable"]),
  pin: z.string().nullable(),
  at: time,
  // version 1 has none: the next look says it
  loadedBy: lsn.nullable().default(null),
});

// journals of before there were files to stage have none of it: what they hold was made by SQL
const provision = {
  staged: z.array(staged).default([]),
  origin: staged.nullable().default(null),
  proof: z
    // nobody looked for the mappings before version 2
    .strictObject({ start: z.boolean(), wal: z.boolean(), mappings: z.boolean().default(false) })
    .default(PROVEN),
  // journals of before births were told apart do not say: it is looked into anew
  beginning: z
    .strictObject({ seen: lsn.nullable(), settled: lsn.nullable() })
    .default(UNPROVISIONED.beginning),
};

const guard = z.strictObject({
  ...provision,
  name: ownSlotName,
  database: z.string(),
  databaseOid: oid,
  state: z.enum(["creating", "staging", "owned"]),
  maxTarget: lsn.nullable(),
});

const slotFields = z.strictObject({
  ...provision,
  name: z.string(),
  database: z.string(),
  // journals of before there were flags do not say
  chosenBy: z.array(z.string()).default([]),
  databaseOid: oid,
  plugin: z.string(),
  twoPhase: z.boolean(),
  state: z.enum(["seen", "creating", "owned"]),
  // journals of before the server's own sync was watched have none of it
  failover: z.boolean().default(false),
  served: z.boolean().default(false),
  twoPhaseXid: xid.nullable().default(null),
  ours: z.strictObject({ databaseOid: oid, plugin: z.string(), twoPhase: z.boolean() }).nullable(),
  births: z.array(
    z.strictObject({
      databaseOid: oid,
      plugin: z.string(),
      at: lsn,
      settled: z.boolean().default(false),
      since: time,
    }),
  ),
  maxTarget: lsn.nullable(),
  // journals of version 1 do not say
  bornAt: lsn.nullable().default(null),
  dropping: z.boolean(),
  primaryConfirmedFlushLsn: lsn.nullable(),
  // journals of before positions had timelines do not say; the next look does
  timeline: count.nullable().default(null),
  commonLsn: lsn.nullable().default(null),
  formerly: z.array(z.strictObject({ timeline: count, lsn })).default([]),
  primaryRestartLsn: lsn.nullable(),
  rows: z.strictObject({ physical: xid, original: xid, begins: lsn }).nullable().default(null),
  primaryInvalidation: z.string().nullable(),
  seenAt: time,
  absentSince: time.nullable(),
  copying: z.boolean().default(false),
  obsolete: z.boolean(),
  protection: oneOf(PROTECTIONS),
  reason: reason.nullable(),
  detail: z.string().nullable(),
  failure: z.strictObject({ reason, detail: z.string() }).nullable(),
  since: time,
});
// a hostile primary may show any name, which is recorded as blocked; a slot of ours cannot have it (I13)
const slot = slotFields.refine(
  ({ name, state }) => state === "seen" || isValidSlotName(name),
  "a slot of ours with a name that no slot can have",
);

const finishedSlot = z.strictObject({
  name: z.string(),
  database: z.string(),
  plugin: z.string(),
  outcome: oneOf(OUTCOMES),
  detail: z.string().nullable(),
  lastSeenLsn: lsnText.nullable(),
  lastSeenAt: time,
  timeline: count.nullable().default(null),
  positionLsn: lsnText.nullable(),
  endOfWalLsn: lsnText.nullable().default(null),
  certain: z.boolean().default(true),
  confirmedBeyondEndBytes: z.number().nonnegative(),
  repair: z.string().nullable().default(null),
});

const finish = z.strictObject({
  timeline: z.number().nullable(),
  finishedAt: time,
  durationMs: z.number(),
  endOfWalLsn: lsnText.nullable(),
  historyError: z.string().nullable().default(null),
  unseen: z.strictObject({ from: time, to: time }).nullable().default(null),
  complete: z.boolean(),
  slots: z.array(finishedSlot),
});

const restart = z.strictObject({
  at: time,
  names: z.array(z.string()),
  outcome: z.enum(["running", "done", "failed", "not_started"]),
  detail: z.string().nullable(),
  // version 1 never tried again what had failed
  failures: z.number().int().nonnegative().default(0),
  retryAt: time.nullable().default(null),
  window: time.nullable(),
});

const history = z.array(z.strictObject({ timeline: count, until: lsn }));

const life = z.strictObject({
  timeline: count,
  history,
  unmoved: z.array(
    z.strictObject({ name: z.string(), databaseOid: oid, plugin: z.string(), restartLsn: lsn }),
  ),
});

export const INSTANCE_ID = /^[0-9a-f]{8}$/;

/** Guards and slots are lists here, not objects: a slot may be called `__proto__`. */
export const bodySchema = z.strictObject({
  instanceId: z.string().regex(INSTANCE_ID),
  clock: z.strictObject({ bootId: z.string(), bootedAt: time }).nullable().default(null),
  systemIdentifier: z.string().regex(/^\d+$/).nullable(),
  phase: z.enum(["standby", "promoting", "primary"]),
  primaryTimeline: count.nullable(),
  standbyTimeline: count.nullable().default(null),
  timelineSince: time,
  observedAt: time,
  standbyFlushedLsn: lsn.nullable(),
  feedbackSince: lsn.nullable(),
  feedbackSession: z.string().nullable().default(null),
  feedbackWalsender: count.nullable().default(null),
  quietUntil: time,
  quietLsn: lsn.nullable().default(null),
  primaryLostAt: time.nullable(),
  haltedAt: time.nullable().default(null),
  alive: z
    .strictObject({ at: time, lsn: lsn.nullable(), how: oneOf(SIGNS) })
    .nullable()
    .default(null),
  relayed: z.boolean().default(false),
  standbyStartedS: time.nullable().default(null),
  life: life.nullable().default(null),
  history: z.strictObject({ timeline: count, forks: history }).nullable().default(null),
  guardSerial: count,
  guards: z.array(guard),
  lowGuards: z.array(guard).default([]),
  slots: z.array(slot),
  plugins: z.array(z.string()),
  leftovers: z
    .array(
      z.strictObject({
        name: z.string(),
        restartLsn: lsn,
        since: time,
        // version 1 does not say
        kept: z.boolean().default(false),
      }),
    )
    .default([]),
  undecided: count.nullable().default(null),
  restart: restart.nullable().default(null),
  problems: z.array(z.string()),
  finish: finish.nullable(),
});

/** The body as it stands in the file. */
export type EncodedBody = z.input<typeof bodySchema>;
