/** What `check` claims when it answers 0, for the models: a promotion now would keep, advance or make every slot (I17). */
import { type AssessInput, answer, assessFromJournal, assessLive } from "../../../src/domain/assess.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import type { Policy } from "../../../src/domain/plan.ts";
import { count, must } from "./claims.ts";

interface Asked {
  journal: JournalState;
  standby: StandbyView;
  /** Null when it does not answer. */
  primary: PrimaryView | null;
  excluded: Iterable<string>;
  policy: Policy;
  now: number;
}

/** True when `check` would answer 0 now. */
export function saysReady({ journal, standby, primary, excluded, policy, now }: Asked): boolean {
  const input: AssessInput = {
    journal,
    standby,
    policy,
    now,
    selection: { include: [{ nameLike: "%" }], exclude: [...excluded].map((name) => ({ name })) },
    sidecarRunning: true,
    quietMs: Number.MAX_SAFE_INTEGER,
    quietSince: 0,
    blindMs: Number.MAX_SAFE_INTEGER,
    primaryProblems: [],
    signs: { flushedLsn: standby.flushedLsn, messageAgeMs: null, refused: false },
    standbyStartedS: 0,
    toWallTime: 0,
  };
  const assessed = primary ? assessLive(input, primary) : assessFromJournal(input, "it does not answer");
  const ready = answer(assessed).code === 0;
  if (ready) count(`check answered 0, ${primary ? "live" : "from the journal"}`);
  return ready;
}

interface Slot {
  db: number;
  plugin: string;
  twoPhase: boolean;
  confirmed: bigint | null;
}

/** Holds what came of a promotion against what `check` said: `slots` are the primary's, `found` what wears the name now. */
export function mustBeThere(
  slots: Iterable<[string, Slot]>,
  found: (name: string) => Slot | undefined,
  end: bigint,
  detail: () => unknown,
  mayLoad: (plugin: string) => boolean = () => true,
): void {
  for (const [name, slot] of slots) {
    const local = found(name);
    const about = () => [name, slot, local, detail()];
    must(local !== undefined, "check answered 0: the slot is there after a promotion (I17)", about);
    must(mayLoad(slot.plugin), "check answered 0: somebody can read it (I17, I18)", about);
    must(
      local.db === slot.db && local.plugin === slot.plugin && local.twoPhase === slot.twoPhase,
      "check answered 0: it is the same slot (I5, I17)",
      about,
    );
    must(
      slot.confirmed !== null && (local.confirmed ?? 0n) <= slot.confirmed && slot.confirmed <= end,
      "check answered 0: it skips nothing (I1, I17)",
      about,
    );
  }
}
