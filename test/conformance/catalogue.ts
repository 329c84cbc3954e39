/** The titles of the conformance scenarios, and where they apply: for the tests and for the table in docs/conformance.md. */

interface Entry {
  title: string;
  /** The majors where it applies; all of them when left out. */
  majors?: readonly number[];
  /** Why it does not apply elsewhere. */
  elsewhere?: string;
}

export const MAJORS: readonly number[] = [11, 12, 13, 14, 15, 16, 17, 18];

const CATALOGUE = {
  flag: {
    title: "a slot is brought while its flag is set, and dropped here when that is cleared",
  },
  notAStandby: {
    title: "syncing is refused on a node that is no standby",
  },
  twoPlugins: {
    title: "slots of two plugins are brought, and stay over a restart of the standby",
  },
  remoteDrop: {
    title: "a slot that is dropped on the primary is dropped here",
  },
  invalidated: {
    title: "a slot that the standby has invalidated is dropped and made anew, valid",
    majors: [16, 17, 18],
    elsewhere: "the server invalidates no slot for lost catalog rows",
  },
  runningTransaction: {
    title: "a slot whose restart_lsn lies where a transaction was running comes to be ready, and sends all",
  },
  hostile: {
    title: "a hostile search_path with functions and operators of its own does no harm",
  },
  wrongSetting: {
    title: "a setting that is wrong is told with its remedy, and all goes on when it is mended",
  },
  confirmedFlush: {
    title: "confirmed_flush_lsn follows the primary's, and is never ahead of it",
  },
  promotion: {
    title: "after a promotion the slots are there, a subscription goes on, and nothing of ours is left",
  },
  twoPhase: {
    title:
      "a transaction prepared before and committed after the promotion is delivered, by a two_phase slot",
    majors: [14, 15, 16, 17, 18],
    elsewhere: "slots have no two_phase",
  },
  idleReason: {
    title: "why an idle slot is not ready is told, and in how many cycles it was not",
  },
  madeAnew: {
    title: "a slot that is dropped and made anew between two looks is another slot, and loses nothing",
  },
  exclusive: {
    title: "a slot that the server syncs cannot be used by anybody else while this is a standby",
    majors: [17, 18],
    elsewhere: "the server lets everybody use a standby's slots",
  },
  noDatabase: {
    title: "a primary_conninfo without dbname is told, and the slots are protected all the same",
    majors: [17, 18],
    elsewhere: "nothing depends on it",
  },
  walRemoved: {
    title: "a slot whose WAL the standby has removed is not ready, is dropped, and comes again past that",
    majors: [13, 14, 15, 16, 17, 18],
    elsewhere: "the server removes no WAL that a slot needs (max_slot_wal_keep_size)",
  },
  inactiveSince: {
    title:
      "after a promotion each slot that nobody reads is inactive since then, and not since the time before",
    majors: [17, 18],
    elsewhere: "slots have no inactive_since",
  },
  earlierPrepared: {
    title:
      "a transaction prepared before a subscription had two_phase is not lost: it is whole, or the slot is not ready",
    majors: [18],
    elsewhere: "two_phase of a subscription cannot be set later",
  },
  alterFailover: {
    title:
      "a subscription's slot is brought once the subscription has failover set, and let go once that is cleared",
    majors: [17, 18],
    elsewhere: "subscriptions have no failover",
  },
  syncedUntouched: {
    title: "a slot that the server syncs can neither be dropped nor altered here, and goes on being ready",
    majors: [17, 18],
    elsewhere: "the server lets everybody drop a standby's slots",
  },
  holdBack: {
    title:
      "a subscriber that synchronized_standby_slots hold back gets its changes once this standby has them, and the slot is ready",
    majors: [17, 18],
    elsewhere: "the server holds no subscriber back",
  },
  message: {
    title:
      "a message outside of transactions, after a transaction that was running, is sent after a failover",
    majors: [12, 13, 14, 15, 16, 17, 18],
    elsewhere: "test_decoding gives messages no position to compare by",
  },
  switchover: {
    title:
      "after a clean switchover the slot goes on where its reader stopped, nothing left out and nothing repeated",
    majors: [13, 14, 15, 16, 17, 18],
    elsewhere: "advancing lets go of catalog rows too early, so a slot may be left short of its position",
  },
  cascade: {
    title: "a slot is brought to a standby of a standby, from the primary at the root",
    majors: [12, 13, 14, 15, 16, 17, 18],
    elsewhere: "no server tells by which slot it streams, so the chain cannot be proven: refused",
  },
} as const satisfies Record<string, Entry>;

export type Key = keyof typeof CATALOGUE;

export interface Scenario {
  key: Key;
  title: string;
  majors: readonly number[];
  elsewhere: string | null;
}

export const ALL: readonly Scenario[] = Object.entries(CATALOGUE).map(([key, entry]: [string, Entry]) => ({
  key: key as Key,
  title: entry.title,
  majors: entry.majors ?? MAJORS,
  elsewhere: entry.elsewhere ?? null,
}));
