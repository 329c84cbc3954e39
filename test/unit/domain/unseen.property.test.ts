/**
 * Time that nobody saw, as a model (I15): a primary that writes, a standby that receives or is down, a sidecar that looks, is locked out, or
 * is down, and a boot clock. It knows when the primary really wrote what has come to this standby, or what the sidecar was told of.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { answer, assessFromJournal } from "../../../src/domain/assess.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import {
  noteAlive,
  noteObservation,
  notePrimaryAlone,
  notePrimaryLost,
  noteStandby,
} from "../../../src/domain/journal-update.ts";
import { plan } from "../../../src/domain/plan.ts";
import { latestAlive, SEEN_WITHIN_MS, unseenAtEnd } from "../../../src/domain/vouch.ts";
import { guard, journalOf, lsn, memory, primaryView, record, slot, standbyView } from "./build.ts";

const RUNS = Number(process.env.SLOTSYNC_PROPERTY_RUNS ?? 1_000);
const BLIND_MS = 20_000;
const POLICY = {
  guardDatabases: "auto" as const,
  duty: 1,
  provision: "auto" as const,
  restarts: false,
  onConflict: "adopt" as const,
  releaseAfterMs: null,
};

class Timeline {
  now = 1_000_000;
  wal = 600;
  here = 600;
  primaryAlive = true;
  /** The role is refused though the primary lives. */
  locked = false;
  standbyUp = true;
  started = 1;
  sidecarUp = true;
  /** What this process of the sidecar knows beyond its journal. */
  watching = true;
  alive: ReturnType<typeof latestAlive> = null;
  quietUntil = 0;
  journal: JournalState = journalOf([record("a", "owned", 500)]);
  /** The truth: when the journal's look, or the silence since, last covered all that the primary had done. */
  coveredUntil = 0;
  /** The truth: when the primary last wrote something that this standby has by now, or that the sidecar was told of. */
  evidencedAt = 0;
  /** When it wrote what has not come here yet. */
  #sentAt = 0;

  #standby() {
    return standbyView([guard(500), slot("a", 500)], {
      flushedLsn: lsn(this.here),
      replayLsn: lsn(this.here),
    });
  }

  #signs() {
    return {
      flushedLsn: lsn(this.here),
      messageAgeMs: this.primaryAlive ? 0 : null,
      refused: this.primaryAlive && this.locked,
    };
  }

  write(): void {
    if (!this.primaryAlive) return;
    this.wal += 10;
    this.#sentAt = this.now;
    if (this.standbyUp) this.#receive();
  }

  #receive(): void {
    if (this.here < this.wal) this.evidencedAt = Math.max(this.evidencedAt, this.#sentAt);
    this.here = this.wal;
  }

  stopStandby(): void {
    this.standbyUp = false;
  }

  startStandby(): void {
    if (this.standbyUp) return;
    this.standbyUp = true;
    this.started += 1;
    if (this.primaryAlive) this.#receive();
  }

  stopSidecar(): void {
    this.sidecarUp = false;
  }

  startSidecar(): void {
    if (this.sidecarUp) return;
    this.sidecarUp = true;
    this.watching = false;
    this.alive = null;
    this.quietUntil = 0;
  }

  /** What the sidecar does about twice a second. */
  pulse(): void {
    if (!this.sidecarUp) return;
    if (!this.primaryAlive || this.locked) {
      this.#lose();
      return;
    }
    const primary = primaryView([slot("a", 500)], { walLsn: lsn(this.wal) });
    if (this.standbyUp) this.#lookAtBoth(primary);
    else if (this.watching) this.#lookAlone(primary);
  }

  #lookAtBoth(primary: ReturnType<typeof primaryView>): void {
    const standby = this.#standby();
    const chosen = [slot("a", 500)];
    const { journal, now } = this;
    const planned = plan({ primary, standby, chosen, journal, policy: POLICY, memory: memory({ now }) });
    const seen = {
      primary,
      standby,
      chosen,
      plan: planned,
      busy: new Set<number>(),
      filesBusy: false,
      problems: [],
      now,
    };
    this.journal = noteStandby(noteObservation(journal, seen), standby, this.started);
    this.watching = true;
    this.alive = null;
    this.quietUntil = now;
    this.coveredUntil = now;
  }

  #lookAlone(primary: ReturnType<typeof primaryView>): void {
    if (primary.walLsn === this.journal.quietLsn && this.journal.alive === null) {
      this.quietUntil = this.now;
      this.coveredUntil = this.now;
      return;
    }
    const quiet = { ...this.journal, quietUntil: Math.max(this.journal.quietUntil, this.quietUntil) };
    this.journal = notePrimaryAlone(quiet, primary, [slot("a", 500)], this.now);
    this.alive = this.journal.alive;
    this.evidencedAt = this.now;
  }

  #lose(): void {
    const lost = notePrimaryLost(this.journal, this.quietUntil, this.now);
    if (this.primaryAlive && this.locked) this.evidencedAt = this.now;
    if (!this.standbyUp) {
      const refusal = { at: this.now, lsn: lost.alive?.lsn ?? null, how: "refusal" as const };
      this.journal = noteAlive(lost, this.primaryAlive ? refusal : null);
      return;
    }
    this.alive = latestAlive({ ...lost, alive: this.alive ?? lost.alive }, this.#signs(), this.now);
    const { standbyStartedS } = lost;
    const unwatched = !this.watching && standbyStartedS !== this.started;
    const heard = unwatched
      ? { at: this.now, lsn: this.alive?.lsn ?? null, how: "unwatched" as const }
      : this.alive;
    this.journal = noteStandby(noteAlive(lost, heard), this.#standby(), this.started);
    this.watching = true;
  }

  code(): number {
    const assessed = assessFromJournal(
      {
        journal: this.journal,
        standby: this.#standby(),
        selection: { include: [{ nameLike: "%" }], exclude: [] },
        policy: POLICY,
        now: this.now,
        sidecarRunning: this.sidecarUp,
        quietSince: 0,
        primaryProblems: [],
        quietMs: 2 * BLIND_MS,
        blindMs: BLIND_MS,
        signs: this.#signs(),
        standbyStartedS: this.started,
        toWallTime: 0,
      },
      "it does not answer",
    );
    return answer(assessed).code;
  }
}

const event = fc.oneof(
  { weight: 4, arbitrary: fc.constant(["write"] as const) },
  { weight: 5, arbitrary: fc.constant(["pulse"] as const) },
  { weight: 4, arbitrary: fc.tuple(fc.constant("pass" as const), fc.constantFrom(400, 1_000, 4_000, 9_000)) },
  { weight: 1, arbitrary: fc.constantFrom(["die"] as const, ["lock"] as const, ["unlock"] as const) },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      ["stopStandby"] as const,
      ["startStandby"] as const,
      ["stopSidecar"] as const,
      ["startSidecar"] as const,
    ),
  },
);

test("whatever the primary was seen or told to have done with nobody looking, check does not answer 0 from the journal after it, and the gap report says so (I15, K2)", () => {
  let ready = 0;
  let unseen = 0;
  fc.assert(
    fc.property(fc.array(event, { minLength: 5, maxLength: 40, size: "max" }), (events) => {
      const model = new Timeline();
      model.pulse();
      for (const [kind, ms = 0] of events as [string, number?][]) {
        if (kind === "pass") model.now += ms;
        else if (kind === "die") model.primaryAlive = false;
        else if (kind === "lock" || kind === "unlock") model.locked = kind === "lock";
        else model[kind as "write"]();
        // what a check says that finds the primary dead, or closed to it
        if (!model.standbyUp || (model.primaryAlive && !model.locked)) continue;
        const lived = model.evidencedAt - model.coveredUntil;
        if (lived > SEEN_WITHIN_MS) {
          unseen += 1;
          expect(model.code()).toBe(2);
          const end = lsn(model.here);
          expect(unseenAtEnd(model.journal, end, model.now, BLIND_MS)).not.toBeNull();
        } else if (model.code() === 0) ready += 1;
      }
    }),
    { numRuns: RUNS },
  );
  expect(ready).toBeGreaterThan(RUNS / 20);
  expect(unseen).toBeGreaterThan(RUNS / 20);
});
