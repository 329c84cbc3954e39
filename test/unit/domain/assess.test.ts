import { describe, expect, test } from "vitest";
import { type AssessInput, answer, assessFromJournal, assessLive } from "../../../src/domain/assess.ts";
import { emptyJournal, type JournalState, type SlotRecord } from "../../../src/domain/journal.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import { guardName } from "../../../src/domain/names.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import { standbyProblems } from "../../../src/domain/prerequisites.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { SEEN_WITHIN_MS } from "../../../src/domain/vouch.ts";
import type { Xid } from "../../../src/domain/xid.ts";

import { SQL_MADE } from "./build.ts";

const NOW = 1_800_000_000_000;
const QUIET_MS = 50_000;
const BLIND_MS = 22_000;
const STARTED_S = 1_700_000_000.25;
const GUARD = guardName("0123abcd", 5, 1);
const lsn = (value: number) => BigInt(value) as Lsn;

function slot(name: string, confirmed: number, more: Partial<LogicalSlot> = {}): LogicalSlot {
  return {
    name,
    database: "app",
    databaseOid: 5,
    plugin: "pgoutput",
    twoPhase: false,
    temporary: false,
    activePid: null,
    restartLsn: lsn(confirmed - 10),
    confirmedFlushLsn: lsn(confirmed),
    catalogXmin: 700 as Xid,
    invalidation: null,
    failover: false,
    synced: false,
    ...more,
  };
}

function record(name: string, confirmed: number, more: Partial<SlotRecord> = {}): SlotRecord {
  return {
    name,
    database: "app",
    chosenBy: ['rule name_like "%"'],
    databaseOid: 5,
    plugin: "pgoutput",
    twoPhase: false,
    state: "owned",
    failover: false,
    served: false,
    twoPhaseXid: null,
    ours: { databaseOid: 5, plugin: "pgoutput", twoPhase: false },
    births: [],
    maxTarget: lsn(confirmed),
    bornAt: null,
    dropping: false,
    primaryConfirmedFlushLsn: lsn(confirmed),
    primaryRestartLsn: lsn(confirmed - 10),
    rows: null,
    primaryInvalidation: null,
    seenAt: NOW - 1_000,
    absentSince: null,
    timeline: 1,
    commonLsn: null,
    formerly: [],
    copying: false,
    obsolete: false,
    protection: "synced",
    reason: null,
    detail: null,
    failure: null,
    since: NOW - 60_000,
    ...SQL_MADE,
    ...more,
  };
}

function journal(records: SlotRecord[], more: Partial<JournalState> = {}): JournalState {
  return {
    ...emptyJournal("0123abcd"),
    systemIdentifier: "77",
    primaryTimeline: 1,
    observedAt: NOW - 1_000,
    quietUntil: more.observedAt ?? NOW - 1_000,
    quietLsn: lsn(1_000),
    standbyFlushedLsn: lsn(1_000),
    standbyStartedS: STARTED_S,
    feedbackSince: lsn(900),
    feedbackSession: "s",
    feedbackWalsender: 4_711,
    guards: {
      5: { name: GUARD, database: "app", databaseOid: 5, state: "owned", maxTarget: null, ...SQL_MADE },
    },
    plugins: ["pgoutput"],
    slots: new Map(records.map((one) => [one.name, one])),
    ...more,
  };
}

function standby(slots: LogicalSlot[], more: Partial<StandbyView> = {}): StandbyView {
  return {
    systemIdentifier: "77",
    inRecovery: true,
    serverVersionNum: 160_014,
    walLevel: "logical",
    hotStandbyFeedback: true,
    primarySlotName: "standby1",
    maxReplicationSlots: 20,
    keptSegments: null,
    walSegmentBytes: 16 * 1024 * 1024,
    usedSlots: slots.length,
    replayLsn: lsn(1_000),
    flushedLsn: lsn(1_000),
    streaming: true,
    syncsSlots: false,
    receivedTimeline: 1,
    leastTimeline: 1,
    conninfoHasDatabase: true,
    physicalSlots: [],
    slots,
    databases: [{ oid: 5, name: "app" }],
    mayReplicate: true,
    feedbackSession: "s",
    files: null,
    ...more,
  };
}

function primary(slots: LogicalSlot[], more: Partial<PrimaryView> = {}): PrimaryView {
  return {
    systemIdentifier: "77",
    inRecovery: false,
    timeline: 1,
    walLevel: "logical",
    serverVersionNum: 160_014,
    walLsn: lsn(1_000),
    physicalSlot: { name: "standby1", active: true, walsender: 4_711, catalogXmin: 690 as Xid },
    slots,
    registry: { kind: "absent", database: "postgres" },
    maySnapshot: true,
    mayReadFiles: true,
    stalledStandbySlots: [],
    prepared: [],
    remembered: false,
    oldestXid: 800 as Xid,
    pins: [],
    ...more,
  };
}

function input(more: Partial<AssessInput> & Pick<AssessInput, "journal" | "standby">): AssessInput {
  return {
    selection: { include: [{ nameLike: "%" }], exclude: [] },
    policy: {
      guardDatabases: "auto",
      duty: 0.05,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
    },
    now: NOW,
    sidecarRunning: true,
    primaryProblems: [],
    quietMs: QUIET_MS,
    quietSince: 0,
    blindMs: BLIND_MS,
    signs: { flushedLsn: more.standby.flushedLsn, messageAgeMs: null, refused: false },
    standbyStartedS: STARTED_S,
    toWallTime: 0,
    ...more,
  };
}

const guard = slot(GUARD, 100);
const live = (given: Parameters<typeof input>[0], seen: PrimaryView) =>
  answer(assessLive(input(given), seen));
const dead = (given: Parameters<typeof input>[0]) =>
  answer(assessFromJournal(input(given), "connection refused"));

describe("while both servers answer", () => {
  const synced = { journal: journal([record("a", 200)]), standby: standby([guard, slot("a", 200)]) };

  test("1. a standby with every slot in place is ready: exit code 0", () => {
    expect(live(synced, primary([slot("a", 200)]))).toEqual({
      code: 0,
      line: "ready: 1 failover slot is safe on this standby",
    });
  });

  test("1b. a second primary beside the one that was asked: nothing can be told", () => {
    const second = { code: "split_brain", severity: "stop" as const, message: "2 servers answer" };
    const seen = primary([slot("a", 200)]);
    expect(live({ ...synced, primaryProblems: [second] }, seen)).toEqual({
      code: 2,
      line: "cannot tell: 2 servers answer",
    });
  });

  test("1c. what was last seen of a primary is no answer for a standby that follows another by now (I1)", () => {
    expect(dead(synced)).toMatchObject({ code: 0 });
    const elsewhere = standby([guard, slot("a", 200)], { receivedTimeline: 2 });
    expect(dead({ ...synced, standby: elsewhere })).toMatchObject({
      code: 1,
      line: expect.stringContaining("this standby on 2 already"),
    });
    const unseen = standby([guard, slot("a", 200)], {
      streaming: false,
      receivedTimeline: null,
      leastTimeline: 2,
    });
    expect(dead({ ...synced, standby: unseen })).toMatchObject({ code: 1 });
  });

  test("1d. a slot older than the guard whose subscriber has gone on past it is not ready before that is recorded (I17, K1)", () => {
    const behind = record("a", 90, { state: "seen", ours: null, maxTarget: null, protection: "waiting" });
    const given = {
      journal: journal([{ ...behind, reason: "wal_or_rows_removed", detail: "behind the guard" }]),
      standby: standby([guard]),
    };
    expect(live(given, primary([slot("a", 120)]))).toEqual({
      code: 1,
      line: expect.stringContaining("not_recorded"),
    });
    const seen = { ...given, journal: journal([{ ...behind, primaryConfirmedFlushLsn: lsn(120) }]) };
    expect(live(seen, primary([slot("a", 120)]))).toMatchObject({ code: 0 });
  });

  test("1e. a position that the journal would restore past the primary's slot, which a crash took back, is not ready (I1, I17)", () => {
    const given = { journal: journal([record("a", 200)]), standby: standby([guard, slot("a", 150)]) };
    expect(live(given, primary([slot("a", 150)]))).toMatchObject({
      code: 1,
      line: expect.stringContaining("would bring it to 0/C8, and the primary's slot is at 0/96 only"),
    });
  });

  test("1f. a guard that this server has invalidated covers nothing, the low one neither (G2, I17)", () => {
    const low = guardName("0123abcd", 5, 2);
    const rows = { physical: 700 as Xid, original: 700 as Xid, begins: lsn(0) };
    const given = journal([record("a", 200, { state: "seen", ours: null, protection: "guarded", rows })], {
      lowGuards: {
        5: { name: low, database: "app", databaseOid: 5, state: "owned", maxTarget: null, ...SQL_MADE },
      },
    });
    const here = (guards: LogicalSlot[]) =>
      live(
        { journal: given, standby: standby(guards, { serverVersionNum: 150_018 }) },
        primary([slot("a", 200)]),
      );
    const lost = { invalidation: "wal_removed" };
    expect(here([slot(GUARD, 210), slot(low, 100)])).toMatchObject({ code: 0 });
    expect(here([slot(GUARD, 210), slot(low, 100, lost)])).toMatchObject({ code: 1 });
    expect(dead({ journal: given, standby: standby([slot(GUARD, 100, lost)]) })).toMatchObject({ code: 1 });
  });

  test("2. a slot that the subscriber has moved past the end of the standby's WAL is not ready (I1)", () => {
    expect(live(synced, primary([slot("a", 1_008)]))).toMatchObject({ code: 1 });
  });

  test("2a. one byte past it no record can have ended: a client that adds 1 to what it has is not ahead (I1, K7)", () => {
    expect(live(synced, primary([slot("a", 1_001)]))).toMatchObject({ code: 0 });
  });

  test("3. a slot that only the guard holds counts once the journal knows it, for nobody else would make it (I6)", () => {
    const seen = primary([slot("a", 200), slot("new", 300)]);
    expect(live(synced, seen)).toMatchObject({ code: 1, line: expect.stringContaining("not_recorded") });
    const known = journal([record("a", 200), record("new", 300, { state: "seen", maxTarget: null })]);
    expect(live({ ...synced, journal: known }, seen)).toMatchObject({ code: 0 });
  });

  test("4. a failure that the running sidecar has journalled is not forgotten by check", () => {
    const failing = record("a", 200, {
      state: "seen",
      maxTarget: null,
      failure: { reason: "permission_denied", detail: "must be a role that may" },
    });
    expect(
      live({ journal: journal([failing]), standby: standby([guard]) }, primary([slot("a", 200)])),
    ).toEqual({
      code: 1,
      line: expect.stringContaining("permission_denied"),
    });
  });

  test("5. a running sidecar that records nothing is taken for hung: not ready", () => {
    const stalled = journal([record("a", 200)], { observedAt: NOW - QUIET_MS - 1 });
    expect(live({ ...synced, journal: stalled }, primary([slot("a", 200)]))).toMatchObject({ code: 1 });
  });

  test("5a. a server that has just come back, or a sidecar that was just started, has had no time to record anything yet (K7)", () => {
    const stalled = journal([record("a", 200)], { observedAt: NOW - 9e8 });
    const said = (quietSince: number) =>
      live({ ...synced, journal: stalled, quietSince }, primary([slot("a", 200)]));
    expect(said(NOW - QUIET_MS)).toMatchObject({ code: 0 });
    expect(said(NOW - QUIET_MS - 1)).toMatchObject({ code: 1 });
  });

  test("6. the primary of another cluster cannot tell anything: exit code 2", () => {
    expect(live(synced, primary([slot("a", 200)], { systemIdentifier: "78" }))).toMatchObject({ code: 2 });
  });

  test("7. until the feedback holds the catalog rows on the primary, nothing is ready (I4)", () => {
    for (const catalogXmin of [null, 701 as Xid]) {
      const physicalSlot = { name: "standby1", active: true, walsender: 4_711, catalogXmin };
      const said = live(synced, primary([slot("a", 200)], { physicalSlot }));
      expect(said).toEqual({ code: 1, line: expect.stringContaining("catalog_rows_unproven") });
    }
  });

  test("9. WAL that was written before the feedback took hold must have been replayed (I4)", () => {
    const since = (position: number) =>
      live(
        { ...synced, journal: journal([record("a", 200)], { feedbackSince: lsn(position) }) },
        primary([slot("a", 200)]),
      );
    expect(since(1_000)).toMatchObject({ code: 0 });
    expect(since(1_001)).toMatchObject({ code: 1, line: expect.stringContaining("catalog_rows_unproven") });
  });

  test("10. a slot whose WAL the next checkpoint may remove is not ready, though the WAL is here (I3)", () => {
    const kept = (keptSegments: number) =>
      live(
        { ...synced, standby: standby([guard, slot("a", 200)], { keptSegments, walSegmentBytes: 400 }) },
        primary([slot("a", 200)]),
      );
    expect(kept(3)).toMatchObject({ code: 0 });
    expect(kept(2)).toMatchObject({ code: 1, line: expect.stringContaining("max_slot_wal_keep_size") });
  });

  test("11. what came by its file counts once the journal says that it is proven, for the finishing step goes by that (I4, I6)", () => {
    const version = { serverVersionNum: 150_018 };
    const origin = {
      ...{
        databaseOid: 5,
        plugin: "pgoutput",
        twoPhase: false,
        restartLsn: lsn(690),
        confirmedFlushLsn: lsn(690),
      },
      ...{ snapshot: "kept" as const, pin: null, at: NOW, loadedBy: null },
    };
    const came = { ...SQL_MADE, origin };
    const seen = (rows: boolean) => ({
      rows: rows ? { physical: 700 as Xid, original: 700 as Xid, begins: lsn(0) } : null,
    });
    const guards = {
      5: {
        name: GUARD,
        database: "app",
        databaseOid: 5,
        state: "owned",
        maxTarget: null,
        ...came,
      } as const,
    };
    const there = primary([slot("a", 700)], version);
    const own = (rows: boolean) =>
      input({
        journal: journal([record("a", 700, { ...came, ...seen(rows) })]),
        standby: standby([slot("a", 700)], version),
      });
    const covered = (rows: boolean) =>
      input({
        journal: journal(
          [record("a", 700, { state: "seen", ours: null, protection: "guarded", ...seen(rows) })],
          { guards },
        ),
        standby: standby([slot(GUARD, 650)], version),
      });
    for (const each of [own, covered]) {
      expect(live(each(false), there)).toMatchObject({
        code: 1,
        line: expect.stringContaining("not_recorded"),
      });
      expect(live(each(true), there)).toMatchObject({ code: 0 });
    }
    // nor what may lack the mappings of catalogs that were rewritten (I16)
    const lacking = { proof: { ...SQL_MADE.proof, mappings: false } };
    const ownLacking = input({
      journal: journal([record("a", 700, { ...came, ...seen(true), ...lacking })]),
      standby: standby([slot("a", 700)], version),
    });
    const coveredLacking = input({
      journal: journal(
        [record("a", 700, { state: "seen", ours: null, protection: "guarded", ...seen(true) })],
        { guards: { 5: { ...guards[5], ...lacking } } },
      ),
      standby: standby([slot(GUARD, 650)], version),
    });
    for (const each of [ownLacking, coveredLacking])
      expect(live(each, there)).toMatchObject({
        code: 1,
        line: expect.stringContaining("rewrite_mappings_unproven"),
      });
  });

  test("12. what the subscriber has confirmed while no sidecar was running is not ready: its catalog rows were not seen to be kept (I4, I15)", () => {
    const rows = { physical: 700 as Xid, original: 700 as Xid, begins: lsn(0) };
    const here = (serverVersionNum: number, sidecarRunning: boolean) => ({
      journal: journal([record("a", 200, { rows })]),
      standby: standby([slot(GUARD, 100), slot("a", 200)], { serverVersionNum }),
      sidecarRunning,
    });
    const seen = (position: number) => primary([slot("a", position)]);
    expect(live(here(150_018, false), seen(200))).toMatchObject({ code: 0 });
    expect(live(here(150_018, false), seen(201))).toEqual({
      code: 1,
      line: expect.stringContaining("nobody has watched"),
    });
    expect(live(here(150_018, true), seen(201))).toMatchObject({ code: 0 });
    // a rewrite of a catalog removes rows without a word, on any version
    expect(live(here(160_014, false), seen(201))).toMatchObject({ code: 1 });
  });

  test("8. --slot asks about one slot only", () => {
    const seen = primary([slot("a", 200), slot("behind", 50)]);
    const assessment = assessLive(input(synced), seen);
    expect(answer(assessment)).toMatchObject({ code: 1 });
    expect(answer(assessment, "a")).toMatchObject({ code: 0 });
    expect(answer(assessment, "behind")).toMatchObject({ code: 1 });
    expect(answer(assessment, "nobody")).toMatchObject({ code: 1 });
  });
});

describe("while the primary is dead", () => {
  const healthy = { journal: journal([record("a", 200)]), standby: standby([guard, slot("a", 200)]) };

  test("1. what was ready when last seen, and still is here, is ready; the line says as of when", () => {
    expect(dead(healthy)).toEqual({
      code: 0,
      line: expect.stringContaining("as last seen at 2027-01-15T07:59:59.000Z"),
    });
  });

  test("2. it stays so however long ago that was, as long as the primary was lost right after", () => {
    const old = journal([record("a", 200)], { observedAt: NOW - 9e8, primaryLostAt: NOW - 9e8 + 500 });
    expect(dead({ ...healthy, journal: old })).toMatchObject({ code: 0 });
  });

  test.each<[string, Partial<JournalState>, boolean]>([
    ["no sidecar was there to see when it was lost", { observedAt: NOW - BLIND_MS - 1 }, false],
    ["the sidecar hangs", { observedAt: NOW - QUIET_MS - 1 }, true],
    ["it was lost long after it was last seen", { observedAt: NOW - 9e8, primaryLostAt: NOW - 1 }, true],
    ["it has never been seen", { observedAt: 0 }, true],
  ])("3. cannot tell when %s: exit code 2", (_, more, sidecarRunning) => {
    const said = dead({ ...healthy, journal: journal([record("a", 200)], more), sidecarRunning });
    expect(said).toMatchObject({ code: 2 });
  });

  const lost = { observedAt: NOW - 9e5, primaryLostAt: NOW - 9e5 + 500 };
  const signs = { flushedLsn: lsn(1_000), messageAgeMs: null, refused: false };

  test.each<[string, Partial<AssessInput>, Partial<JournalState>]>([
    ["WAL that nobody has looked at has come", { signs: { ...signs, flushedLsn: lsn(1_001) } }, {}],
    ["the walreceiver hears from it still", { signs: { ...signs, messageAgeMs: 10 } }, {}],
    ["it answers with a refusal", { signs: { ...signs, refused: true } }, {}],
    [
      "the sidecar was refused, and it is dead by now",
      {},
      { alive: { at: NOW - 8e5, lsn: null, how: "refusal" } },
    ],
    [
      "it went on while this standby was down",
      {},
      { alive: { at: NOW - 8e5, lsn: lsn(900), how: "looked" } },
    ],
    [
      "this standby was started with no sidecar there",
      { standbyStartedS: STARTED_S + 1, sidecarRunning: false },
      {},
    ],
  ])("3b. cannot tell once %s: exit code 2, and the line says so (I15)", (_, more, journalled) => {
    const held = journal([record("a", 200)], { ...lost, ...journalled });
    expect(dead({ ...healthy, ...more, journal: held })).toEqual({
      code: 2,
      line: expect.stringMatching(/^cannot tell: .*no look at both since.*connection refused/),
    });
  });

  test("3c. what a crash leaves between the last answer and the end is no life that nobody saw (I15)", () => {
    const crashed: [Partial<AssessInput>, Partial<JournalState>][] = [
      [{}, { alive: { at: NOW - 9e5 + SEEN_WITHIN_MS, lsn: lsn(1_100), how: "wal" } }],
      [{ signs: { ...signs, messageAgeMs: 9e5 - SEEN_WITHIN_MS } }, {}],
      // what a standby between has to say is not the primary
      [{ signs: { ...signs, messageAgeMs: 10 } }, { relayed: true }],
    ];
    for (const [more, journalled] of crashed) {
      const held = journal([record("a", 200)], { ...lost, ...journalled });
      expect(dead({ ...healthy, ...more, journal: held })).toMatchObject({ code: 0 });
    }
  });

  test("3d. a sidecar that has the primary's ear asks it: a message of the walreceiver is no news then (I15)", () => {
    const held = journal([record("a", 200)], { observedAt: NOW - SEEN_WITHIN_MS - 2_000 });
    const input = { ...healthy, journal: held, signs: { ...signs, messageAgeMs: 0 } };
    expect(dead(input)).toMatchObject({ code: 0 });
    expect(dead({ ...input, sidecarRunning: false })).toMatchObject({ code: 2 });
  });

  test("3e. subscribers that were seen to be past this standby's WAL are named (I15)", () => {
    const alive = { at: NOW - 8e5, lsn: lsn(2_000), how: "looked" as const };
    const held = journal([record("a", 1_200), record("b", 900)], { ...lost, alive });
    expect(dead({ ...healthy, journal: held }).line).toContain(`confirmed past this standby's WAL: "a"; `);
  });

  test.each<[string, LogicalSlot[]]>([
    ["it is gone from the standby, and the guard with it", []],
    ["it is gone, and the guard has passed it", [slot(GUARD, 201)]],
    ["the standby has invalidated it", [guard, slot("a", 200, { invalidation: "rows_removed" })]],
    ["somebody has moved it on", [guard, slot("a", 201)]],
    ["somebody is reading it", [guard, slot("a", 200, { activePid: 99 })]],
  ])("4. a slot that was ready is so no more when %s", (_, slots) => {
    expect(dead({ ...healthy, standby: standby(slots) })).toMatchObject({ code: 1 });
  });

  test("5. a slot that waited for WAL is ready once that has come in, and not before (I1)", () => {
    const behind = journal([
      record("a", 1_200, { protection: "waiting", reason: "wal_not_flushed", maxTarget: lsn(200) }),
    ]);
    const at = (flushed: number) =>
      dead({ journal: behind, standby: standby([guard, slot("a", 200)], { flushedLsn: lsn(flushed) }) });
    expect(at(1_199)).toMatchObject({ code: 1 });
    expect(at(1_200)).toMatchObject({ code: 0 });
  });

  test("5b. what the server itself brought on after the last look is no slot ahead of the primary's (I1)", () => {
    const flagged = { failover: true, synced: true };
    const known = (maxTarget: number) =>
      journal([record("a", 200, { failover: true, served: true, maxTarget: lsn(maxTarget) })]);
    const said = (state: JournalState, at: number) =>
      dead({
        journal: state,
        standby: standby([slot(GUARD, 900), slot("a", at, flagged)], { serverVersionNum: 170_010 }),
      });
    expect(said(known(200), 300)).toMatchObject({ code: 0 });
    // it was ahead when both were seen
    expect(said(known(250), 300)).toMatchObject({ code: 1 });
  });

  test("6. a slot that waited for any other reason does not become ready by the primary's death", () => {
    const unfit = journal([
      record("a", 200, { protection: "blocked", reason: "slot_invalidated", detail: "it is" }),
    ]);
    expect(dead({ ...healthy, journal: unfit })).toMatchObject({ code: 1 });
  });

  test("6b. a primary_slot_name that an HA manager has cleared since does not stand against it; one that was unset already does (K7)", () => {
    const cleared = standby([guard, slot("a", 200)], { primarySlotName: "" });
    const said = (problems: string[]) =>
      dead({ journal: journal([record("a", 200)], { problems }), standby: cleared });
    expect(said([])).toMatchObject({ code: 0 });
    const [unset] = standbyProblems(cleared, journal([]));
    expect(unset).toMatchObject({ code: "primary_slot_name_unset", severity: "stop" });
    expect(said([unset?.message ?? ""])).toMatchObject({ code: 1 });
  });

  test("7. what stood against readiness when last seen still does", () => {
    const feedbackOff = journal([record("a", 200)], { problems: ["hot_standby_feedback is off"] });
    expect(dead({ ...healthy, journal: feedbackOff })).toEqual({
      code: 1,
      line: expect.stringContaining("hot_standby_feedback is off"),
    });
  });
});
