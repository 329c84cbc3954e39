/**
 * The sidecar around the real planner: the cycle as sync/cycle.ts runs it, with its process killed, its statements failing and the
 * world moving between any two steps, and after each of them the question that matters: were this standby promoted now, would the
 * finishing step keep every promise that was made?
 */
import type { Action } from "../../../src/domain/action.ts";
import { type FinishStep, planFinish } from "../../../src/domain/finish.ts";
import { emptyJournal, type JournalState } from "../../../src/domain/journal.ts";
import { noteDone, noteFailure, noteIntents, noteObservation } from "../../../src/domain/journal-update.ts";
import { type Lsn, minLsn } from "../../../src/domain/lsn.ts";
import { isOwnSlotName } from "../../../src/domain/names.ts";
import { retryDelay } from "../../../src/domain/nap.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import { type Backoff, type Memory, type Plan, type Policy, plan } from "../../../src/domain/plan.ts";
import { guardBackoffKey, holdBackoffKey } from "../../../src/domain/plan-guard.ts";
import { isFailoverReady } from "../../../src/domain/protection.ts";
import type { PrimarySlot } from "../../../src/domain/slot.ts";
import { mustBeThere, saysReady } from "./check-claim.ts";
import { Broken, count, must } from "./claims.ts";
import { type SSlot, World } from "./model.ts";

/** How one action of a cycle goes. `late`: its effect comes, the answer does not. */
export type Fate = "done" | "fails" | "late";

export interface CycleScript {
  gapMs: number;
  /** What happens between the look at the primary and the look at the standby. */
  betweenLooks: WorldStep[];
  /** What happens between planning and acting. */
  beforeActing: WorldStep[];
  fates: Fate[];
  /** The sidecar is killed: before the journal is written (0), or before the n-th action. */
  killAt: number | null;
  /** The killed sidecar's statement goes on by itself, and ends at some later time. */
  leavesStatement: boolean;
  /** Another cycle looks while this one's lane is busy, at the n-th action. */
  peekAt: number | null;
  /** Guards take until a later cycle to be made. */
  slowGuards: boolean;
}

export type WorldStep = (world: World) => void;

export const CALM: CycleScript = {
  gapMs: 6_000,
  betweenLooks: [],
  beforeActing: [],
  fates: ["done"],
  killAt: null,
  leavesStatement: false,
  peekAt: null,
  slowGuards: false,
};

type Polled = {
  confirmed: bigint | null;
  db: number;
  plugin: string;
  twoPhase: boolean;
  invalid: string | null;
};

export class SidecarModel {
  readonly world = new World();
  readonly policy: Policy;
  journal: JournalState = emptyJournal("00000001");
  saved: JournalState = this.journal;
  excluded = new Set<string>();
  now = 1_700_000_000_000;
  /** What the saved journal's observation really saw on the primary. */
  polled = new Map<string, Polled>();
  /** The verdicts are of the present: nothing was done by hand here since. */
  fresh = false;
  #instances = 1;
  #budgetMs = 1_000;
  #backoff = new Map<string, Backoff>();
  #guardAdvancedAt = new Map<string, number>();
  #restUntil = new Map<string, number>();
  #creating = new Map<number, Action>();

  constructor(policy: Policy, maxSlots: number) {
    this.policy = policy;
    this.world.maxSlots = maxSlots;
  }

  // ---- the process

  kill(): void {
    this.world.endSessions();
    this.journal = this.saved;
    this.#backoff = new Map(
      [...this.journal.slots.values()].flatMap(({ name, failure }) =>
        failure ? [[name, { ...failure, failures: 1, retryAt: 0 }] as const] : [],
      ),
    );
    this.#guardAdvancedAt.clear();
    this.#restUntil.clear();
    this.#creating.clear();
    this.#budgetMs = 100;
  }

  loseJournal(): void {
    this.kill();
    this.#instances += 1;
    this.journal = emptyJournal(this.#instances.toString(16).padStart(8, "0"));
    this.saved = this.journal;
    this.polled = new Map();
    for (const slot of this.world.standby.values()) slot.foreign = true;
    this.world.late = [];
  }

  #memory(busy: Iterable<number> = []): Memory {
    return {
      now: this.now,
      budgetMs: this.#budgetMs,
      backoff: this.#backoff,
      busyDatabases: new Set(busy),
      creatingGuards: new Set(this.#creating.keys()),
      guardAdvancedAt: this.#guardAdvancedAt,
      restUntil: this.#restUntil,
      serverSync: null,
      filesBusy: false,
    };
  }

  cycle(script: CycleScript): Plan | null {
    this.now += script.gapMs;
    this.#budgetMs = Math.min(1_000, this.#budgetMs + script.gapMs * this.policy.duty);
    if (!script.slowGuards) this.#finishGuards();
    const primary = this.world.seePrimary();
    for (const step of script.betweenLooks) step(this.world);
    const standby = this.world.seeStandby();
    const before = this.saved;
    const planned = this.#judge(primary, standby, []);
    if (script.killAt === 0) {
      count("killed before the journal was written");
      this.saved = before;
      this.kill();
      return null;
    }
    this.#save(primary, planned.actions);
    this.checkPromises("after the journal was written");
    for (const step of script.beforeActing) step(this.world);
    this.#act(planned.actions, script);
    if (this.#hasNewGuard()) this.world.nudge();
    return planned;
  }

  #hasNewGuard(): boolean {
    return Object.values(this.journal.guards).some(({ name }) => {
      const guard = this.world.standby.get(name);
      return guard !== undefined && guard.restart <= guard.birth;
    });
  }

  #chosen(primary: PrimaryView): PrimarySlot[] {
    return primary.slots.filter((slot) => !isOwnSlotName(slot.name) && !this.excluded.has(slot.name));
  }

  /** Plans, and takes the observation over into the journal in memory. */
  #judge(primary: PrimaryView, standby: StandbyView, busy: Iterable<number>): Plan {
    const chosen = this.#chosen(primary);
    const memory = this.#memory(busy);
    const planned = plan({ primary, standby, chosen, journal: this.journal, policy: this.policy, memory });
    this.#checkPlan(planned, primary, standby, chosen);
    this.journal = noteObservation(this.journal, {
      primary,
      standby,
      chosen,
      plan: planned,
      busy: new Set(busy),
      filesBusy: false,
      problems: [],
      now: this.now,
    });
    this.#budgetMs = planned.budgetMs;
    for (const [name, until] of planned.rests) this.#restUntil.set(name, until);
    return planned;
  }

  #save(primary: PrimaryView, actions: readonly Action[]): void {
    this.journal = noteIntents(this.journal, actions);
    this.saved = this.journal;
    this.fresh = true;
    this.polled = new Map(this.#chosen(primary).map((slot) => [slot.name, polledOf(slot)]));
    for (const action of actions) {
      if (action.kind !== "advance" && action.kind !== "replace") continue;
      const slot = this.world.standby.get(action.slot);
      if (slot && !slot.foreign && action.to > slot.meant) slot.meant = action.to;
    }
  }

  #act(actions: readonly Action[], script: CycleScript) {
    for (const [index, action] of actions.entries()) {
      if (script.killAt === index + 1) return this.#dieIn(action, script.leavesStatement);
      const fate = script.fates[index % script.fates.length] ?? "done";
      const peek = script.peekAt === index ? this.#peeker(actions) : null;
      if (action.kind === "create_guard" && script.slowGuards) {
        this.#creating.set(action.databaseOid, action);
        continue;
      }
      this.#run(action, fate, () => peek?.look());
      peek?.look();
      peek?.judge();
      this.checkPromises(`after ${action.kind}`);
    }
    this.saved = this.journal;
    this.checkPromises("after the cycle");
  }

  #run(action: Action, fate: Fate, between: () => void): void {
    try {
      if (fate === "fails") throw new Error("the connection was lost before the statement arrived");
      this.world.execute(action, between);
      if (fate === "late") throw new Error("the connection was lost before the answer arrived");
      count(`done: ${action.kind}`);
      this.#backoff.delete(keyOf(action));
      if (action.kind === "advance_guard") this.#guardAdvancedAt.set(action.guard, this.now);
      this.journal = noteDone(this.journal, action);
    } catch (error) {
      if (error instanceof Broken) throw error;
      count(`failed: ${action.kind}`);
      const failure = { reason: "statement_failed", detail: String(error) } as const;
      const failures = (this.#backoff.get(keyOf(action))?.failures ?? 0) + 1;
      this.#backoff.set(keyOf(action), {
        ...failure,
        failures,
        retryAt: this.now + retryDelay(failures, 0.5),
      });
      if ("slot" in action) this.journal = noteFailure(this.journal, action.slot, failure);
    }
  }

  #finishGuards(): void {
    for (const [oid, action] of this.#creating) {
      this.#creating.delete(oid);
      this.#run(action, "done", () => {});
    }
  }

  #dieIn(action: Action, leavesStatement: boolean): void {
    count("killed in the middle of the actions");
    if (leavesStatement && action.kind === "create") {
      const source = this.world.standby.get(action.from);
      if (source && !source.invalid && source.confirmed <= action.to && action.to <= this.world.replay)
        this.world.late.push({ action, sourceRestart: source.restart, sourceBirth: source.birth });
    }
    this.kill();
    this.checkPromises("after the kill");
  }

  /** A later cycle that looks while the lane of this one is busy. */
  #peeker(actions: readonly Action[]) {
    let seen: { primary: PrimaryView; standby: StandbyView } | null = null;
    const busy = new Set(actions.flatMap((action) => ("databaseOid" in action ? [action.databaseOid] : [])));
    return {
      look: () => {
        seen ??= { primary: this.world.seePrimary(), standby: this.world.seeStandby() };
      },
      judge: () => {
        if (!seen) return;
        count("looked while a lane was busy");
        // what was busy when the look began counts as busy, however late it is judged
        this.#judge(seen.primary, seen.standby, busy);
        this.#save(seen.primary, []);
      },
    };
  }

  /** A statement of a killed sidecar comes to its end. */
  finishLate(): void {
    const late = this.world.late.shift();
    if (!late || this.world.standby.has(late.action.slot)) return;
    if (this.world.standby.size >= this.world.maxSlots) return;
    count("a killed sidecar's statement ended late");
    const { slot, databaseOid, plugin, to } = late.action;
    this.world.add({
      name: slot,
      db: databaseOid,
      plugin,
      twoPhase: false,
      temporary: false,
      session: null,
      restart: late.sourceRestart,
      confirmed: to,
      foreign: false,
      consumed: false,
      meant: to,
      birth: late.sourceBirth,
    });
  }

  // ---- what must hold of a plan

  #checkPlan(
    planned: Plan,
    primary: PrimaryView,
    standby: StandbyView,
    chosen: readonly PrimarySlot[],
  ): void {
    for (const action of planned.actions) {
      const detail = () => ({
        action,
        actions: planned.actions,
        primary: primary.slots,
        standby: standby.slots,
        journal: this.journal,
      });
      if (
        action.kind === "create" ||
        action.kind === "advance" ||
        action.kind === "replace" ||
        action.kind === "drop"
      ) {
        const local = this.world.standby.get(action.slot);
        const source = chosen.find((slot) => slot.name === action.slot);
        if (action.kind !== "create")
          must(
            local !== undefined && reallyOurs(local) && local.pid === null,
            "I7: only ours, never an active one",
            detail,
          );
        if (action.kind === "create") must(local === undefined, "I7: a taken name is left alone", detail);
        if (action.kind !== "drop") {
          must(
            source?.confirmedFlushLsn != null && action.to <= source.confirmedFlushLsn,
            "I1: never ahead",
            detail,
          );
          must(action.to <= standby.replayLsn, "I1: not past replay", detail);
          must(
            action.kind === "advance" || source?.plugin === action.plugin,
            "I5: the primary's plugin",
            detail,
          );
          must(source?.databaseOid === action.databaseOid, "I5: the primary's database", detail);
        }
        if (action.kind === "create" || action.kind === "replace") {
          const from = action.kind === "create" ? action.from : action.guard;
          const guard = planned.actions.find(
            (other) => other.kind === "advance_guard" && other.guard === from,
          );
          if (guard?.kind === "advance_guard")
            must(guard.to <= action.to, "G1: not past a slot that is copied out of it", detail);
        }
      }
      if (action.kind === "drop_leftover") {
        const local = this.world.standby.get(action.slot);
        must(
          isOwnSlotName(action.slot) && local?.foreign === false && local.pid === null,
          "I7: only our leftovers",
          detail,
        );
      }
      if (action.kind === "advance_guard") {
        must(action.to <= standby.replayLsn, "G1: not past replay", detail);
        const guard = this.world.standby.get(action.guard);
        for (const slot of this.world.primary.values())
          if (slot.db === action.databaseOid && !slot.polled && slot.born !== null && slot.confirmed !== null)
            must(action.to <= slot.born, "G1: not past a slot made after the poll", () => [slot, detail()]);
        for (const slot of chosen) {
          const verdict = planned.verdicts.get(slot.name);
          const at = slot.confirmedFlushLsn;
          if (verdict?.protection !== "guarded" || slot.databaseOid !== action.databaseOid || at === null)
            continue;
          must(
            action.to <= at && (guard?.confirmed ?? at) <= at,
            "G1: not past a slot that relies on it",
            detail,
          );
        }
      }
    }
    for (const slot of chosen)
      must(planned.verdicts.has(slot.name), "every chosen slot has a verdict", () => slot);
  }

  // ---- what must hold were it promoted now

  checkPromises(when: string): void {
    for (const sessionsLive of [true, false]) this.#checkPromotion(when, sessionsLive);
    for (const live of [true, false]) this.#checkAnswer(when, live);
  }

  /** I17: whatever the sidecar has seen since, and whether it lives: `check` 0 is held against what a promotion would bring. */
  #checkAnswer(when: string, live: boolean): void {
    const world = this.world.clone();
    const primary = world.seePrimary();
    const standby = world.seeStandby();
    const asked = {
      journal: this.saved,
      standby,
      excluded: this.excluded,
      policy: this.policy,
      now: this.now,
    };
    if (!saysReady({ ...asked, primary: live ? primary : null })) return;
    world.endSessions();
    world.promote();
    const journal = this.saved;
    const steps = planFinish({
      journal,
      slots: world.seeSlots(),
      own: world.history(),
      serverVersionNum: 160_014,
    });
    for (const step of ordered(steps)) attempt(() => world.finish(step));
    const now = this.#chosen(primary).map((slot): [string, Polled] => [slot.name, polledOf(slot)]);
    mustBeThere(
      live ? now : this.polled,
      (name) => world.standby.get(name),
      world.replay,
      () => ({ when, live, steps, records: journal.slots, standby: this.world.standby }),
      (plugin) => world.mayLoad(plugin),
    );
  }

  #checkPromotion(when: string, sessionsLive: boolean): void {
    const world = this.world.clone();
    if (!sessionsLive) world.endSessions();
    world.promote();
    const steps = planFinish({
      journal: this.saved,
      slots: world.seeSlots(),
      own: world.history(),
      serverVersionNum: 160_014,
    });
    const failed = new Map<string, string>();
    for (const step of ordered(steps)) {
      const local = world.standby.get(step.record.name);
      if (local && (step.kind === "advance" || step.kind === "drop" || step.kind === "materialise"))
        must(reallyOurs(local), "I7: the finishing step touches only ours", () => [when, step.kind, local]);
      try {
        world.finish(step);
      } catch (error) {
        failed.set(step.record.name, String(error));
      }
    }
    const detail = (slot: unknown) => () => ({
      when,
      sessionsLive,
      slot,
      polled: [...this.polled],
      steps: steps.map(({ record, ...step }) => ({ name: record.name, ...step })),
      failed: [...failed],
      standby: this.world.standby,
      records: this.saved.slots,
    });

    for (const slot of world.standby.values()) {
      if (slot.temporary || isOwnSlotName(slot.name) || !reallyOurs(slot) || slot.pid !== null) continue;
      // somebody has consumed it here: it is not ours to drop any more (I7), even if a crash takes it back to where we had it
      if (slot.consumed) continue;
      const seen = this.polled.get(slot.name);
      const record = this.saved.slots.get(slot.name);
      if (!seen) {
        const spared = record?.reason === "absent_on_primary";
        must(spared, "I6: what is gone from the primary does not come back", detail(slot));
        continue;
      }
      must(seen.invalid === null && slot.invalid === null, "I6: no invalidated slot", detail(slot));
      must(
        seen.db === slot.db && seen.plugin === slot.plugin && seen.twoPhase === slot.twoPhase,
        "I5, I6: the same slot",
        detail(slot),
      );
      must(seen.confirmed !== null && slot.confirmed <= seen.confirmed, "I1, I6: never ahead", detail(slot));
      must(slot.restart >= world.walKept, "I3, I6: its WAL is here", detail(slot));
      must(
        slot.restart > slot.birth,
        "K4, I6: no rows by the catalogs of before its guard's birth",
        detail(slot),
      );
    }
    if (!this.fresh) return;
    for (const record of this.saved.slots.values()) {
      if (record.obsolete || !isFailoverReady(record.protection)) continue;
      count(`promise checked: ${record.protection}`);
      const slot = world.standby.get(record.name);
      const seen = this.polled.get(record.name);
      const promise = `a slot that is called ${record.protection} is there after a promotion`;
      must(slot !== undefined && seen !== undefined && seen.confirmed !== null, promise, detail(record));
      if (!slot || !seen || seen.confirmed === null) continue;
      const exact = minLsn(seen.confirmed as Lsn, world.replay as Lsn);
      must(slot.confirmed === exact, `${promise}, at its exact position (I1)`, detail(record));
      must(seen.confirmed <= world.replay, `${promise}, with nothing missing (I1)`, detail(record));
    }
  }
}

function polledOf(slot: PrimarySlot): Polled {
  const { confirmedFlushLsn, databaseOid, plugin, twoPhase, invalidation } = slot;
  return { confirmed: confirmedFlushLsn, db: databaseOid, plugin, twoPhase, invalid: invalidation };
}

/** What the modelled server refuses changes nothing. */
function attempt(run: () => void): void {
  try {
    run();
  } catch (error) {
    if (error instanceof Broken) throw error;
  }
}

/** As the finishing step goes about it: drops first, for they make room; what was not promised last, for it takes some. */
function ordered(steps: readonly FinishStep[]): FinishStep[] {
  const rank = (step: FinishStep) => (step.kind === "drop" ? 0 : isExtra(step) ? 2 : 1);
  return steps.toSorted((a, b) => rank(a) - rank(b));
}

function isExtra(step: FinishStep): boolean {
  return step.kind === "materialise" && step.dropFirst === null && !isFailoverReady(step.record.protection);
}

/** Made by us, and nowhere that we did not mean it to be. */
export function reallyOurs(slot: SSlot): boolean {
  return !slot.foreign && slot.confirmed <= slot.meant;
}

function keyOf(action: Action): string {
  switch (action.kind) {
    case "create_guard":
    case "advance_guard":
      return guardBackoffKey(action.databaseOid);
    case "create_hold":
    case "release_hold":
      return holdBackoffKey(action.databaseOid);
    case "probe_plugin":
      return `plugin:${action.plugin}`;
    case "sync_slots":
      return action.kind;
    default:
      return action.slot;
  }
}
