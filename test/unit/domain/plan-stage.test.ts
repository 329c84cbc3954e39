/** What is done with slot files (I11), as a table: every line of `planFiles`, and how the slots stand meanwhile. */
import { describe, expect, test } from "vitest";
import type { Action } from "../../../src/domain/action.ts";
import {
  type GuardRecord,
  type JournalState,
  PROVEN,
  type Staged,
  UNPROVISIONED,
} from "../../../src/domain/journal.ts";
import { noteObservation, noteStaged } from "../../../src/domain/journal-update.ts";
import type { FilesView, PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import { type Memory, type Plan, type Policy, plan } from "../../../src/domain/plan.ts";
import { stagedNames, stillNeeded } from "../../../src/domain/plan-stage.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { GUARD, journalOf, lsn, memory, NOW, primaryView, record, slot, standbyView } from "./build.ts";

const MB = 1024 * 1024;
const LOW = GUARD.replace(/1$/, "2");

interface Case {
  claim: string;
  version?: number;
  there?: LogicalSlot[];
  here?: LogicalSlot[];
  /** Names of slots of ours whose files lie there, staged from what `slot(name, 500)` is. */
  staged?: string[];
  /** Names of folders that nobody knows. */
  foreign?: string[];
  /** Both guards are staged as well. */
  guards?: boolean;
  files?: Partial<FilesView> | null;
  journal?: Parameters<typeof journalOf>[1];
  stagedAs?: Partial<Staged>;
  primary?: Partial<PrimaryView>;
  standby?: Partial<StandbyView>;
  policy?: Partial<Policy>;
  memory?: Partial<Memory>;
  excluded?: string[];
  /** `kind slot`, for a stage with `<source` (`-`: a slot is made for it), `*` when it is renewed. */
  actions: string[];
  /** `protection(reason)` of slot "x". */
  x?: string;
  /** What its detail says. */
  says?: string;
}

const stagedFrom = (more: Partial<Staged> = {}): Staged => ({
  ...{
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    restartLsn: lsn(490),
    confirmedFlushLsn: lsn(500),
  },
  ...{ snapshot: "kept", pin: "slotsync_pin_0badcafe_1", at: NOW - 1_000, loadedBy: null },
  ...more,
});

const folderOf = (name: string, staged: Staged) => ({
  name,
  state: {
    databaseOid: staged.databaseOid,
    plugin: staged.plugin,
    twoPhase: staged.twoPhase,
    restartLsn: staged.restartLsn,
    confirmedFlushLsn: staged.confirmedFlushLsn,
  },
});

const BOTH_GUARDS = [`stage ${GUARD}<x`, `stage ${LOW}<x`];
const here11 = { version: 110_022 };
const auto16: Partial<Case> = { policy: { restarts: true } };
const guardHere = slot(GUARD, 100);
const behind = slot("x", 50);
const later = (position: number) => [slot("x", position)];

const CASES: Case[] = [
  {
    claim: "1 on 15 two guards a database are staged, before the slots",
    actions: [...BOTH_GUARDS, "stage x<x"],
    x: "waiting(restart_pending)",
    says: "about to be staged",
  },
  {
    claim: "2 on 11 no guard is: nothing could be copied out of it",
    ...here11,
    actions: ["stage x<x"],
    x: "waiting(restart_pending)",
  },
  {
    claim: "3 what is staged waits for the start, and is left alone",
    staged: ["x"],
    guards: true,
    actions: [],
    x: "waiting(restart_pending)",
    says: "is staged",
  },
  {
    claim: "4 a guard is made from the slot that has come furthest, of whatever database",
    there: [slot("x", 500), slot("y", 900, { databaseOid: 2, database: "db2" })],
    actions: [`stage ${GUARD}<y`, `stage ${LOW}<y`, "stage x<x"],
  },
  {
    claim: "5 … never from one that is temporary, invalidated, two_phase, unfinished or oddly named",
    there: [
      slot("x", 500),
      slot("a", 901, { invalidation: "wal_removed" }),
      slot("b", 902, { twoPhase: true }),
      slot("c", null, { restartLsn: lsn(903) }),
      slot("D-1", 904),
      slot("e", 905, { temporary: true }),
    ],
    excluded: ["a", "b", "c", "D-1", "e"],
    actions: [...BOTH_GUARDS, "stage x<x"],
  },
  {
    claim: "5b … nor from one whose own file could not be staged (I9)",
    there: [slot("x", 500), slot("y", 900)],
    memory: {
      backoff: new Map([
        ["stage:y", { reason: "statement_failed", detail: "damaged", retryAt: NOW + 1, failures: 1 }],
      ]),
    },
    actions: [...BOTH_GUARDS, "stage x<x"],
  },
  {
    claim: "6 … and where there is none, from a slot that is made for it",
    there: [],
    actions: [`stage ${GUARD}<-`, `stage ${LOW}<-`],
  },
  {
    claim: "7 guards that are loaded are not staged again",
    here: [slot(GUARD, 100), slot(LOW, 100)],
    guards: true,
    actions: ["stage x<x"],
  },
  {
    claim: "8 nothing goes beyond what the next start takes (I11), and guards come first",
    files: { folderCount: 4, maxReplicationSlots: 6 },
    actions: BOTH_GUARDS,
  },
  {
    claim: "9 … whatever the running server takes",
    files: { folderCount: 6, maxReplicationSlots: 6 },
    standby: { maxReplicationSlots: 50 },
    actions: [],
    x: "waiting(too_many_slots)",
    says: "raise it there and restart it",
  },
  {
    claim: "10 … or where the files tell nothing, as much as that one takes",
    files: { folderCount: 19, maxReplicationSlots: null },
    actions: [`stage ${GUARD}<x`],
  },
  {
    claim: "11 renewing takes no more room",
    ...here11,
    there: later(500 + 20 * MB),
    staged: ["x"],
    files: { maxReplicationSlots: 1 },
    actions: ["stage x<x*"],
  },
  {
    claim: "12 what is staged beyond a limit lowered since is taken back (I11), and guards stay",
    staged: ["x"],
    guards: true,
    files: { maxReplicationSlots: 2 },
    actions: ["unstage x"],
  },
  {
    claim: "13 … guards too when there is no other way",
    guards: true,
    staged: ["x"],
    files: { maxReplicationSlots: 1 },
    actions: [`unstage ${LOW}`, "unstage x"],
  },
  {
    claim: "14 … and what others have staged counts",
    ...here11,
    staged: ["x"],
    foreign: ["a", "b"],
    files: { maxReplicationSlots: 2 },
    actions: ["unstage x"],
  },
  {
    claim: "15 what is over for others' sake alone is none of ours",
    ...here11,
    foreign: ["a", "b"],
    files: { maxReplicationSlots: 1 },
    actions: [],
    x: "waiting(too_many_slots)",
  },
  {
    claim: "16 what is taken back for another reason makes room at once",
    ...here11,
    there: [slot("x", 500), slot("y", 500)],
    staged: ["y"],
    excluded: ["y"],
    files: { maxReplicationSlots: 1 },
    actions: ["unstage y", "stage x<x"],
  },
  {
    claim: "17 a staged file is renewed when its slot has gone on by 16 MB",
    ...here11,
    there: later(500 + 16 * MB),
    staged: ["x"],
    actions: ["stage x<x*"],
  },
  {
    claim: "18 … or at all, after a minute",
    ...here11,
    there: later(501),
    staged: ["x"],
    stagedAs: { at: NOW - 60_000, loadedBy: null },
    actions: ["stage x<x*"],
  },
  {
    claim: "19 … not before",
    ...here11,
    there: later(501),
    staged: ["x"],
    stagedAs: { at: NOW - 59_999, loadedBy: null },
    actions: [],
  },
  {
    claim: "20 … and never while the slot stands still",
    ...here11,
    staged: ["x"],
    stagedAs: { at: NOW - 999_999, loadedBy: null },
    actions: [],
  },
  {
    claim: "21 a guard without a source is renewed when the primary has written 64 MB",
    there: [],
    guards: true,
    primary: { walLsn: lsn(490 + 64 * MB) },
    actions: [`stage ${GUARD}<-*`, `stage ${LOW}<-*`],
  },
  {
    claim: "22 a slot that is not chosen any more is taken back",
    ...here11,
    staged: ["x"],
    excluded: ["x"],
    actions: ["unstage x"],
  },
  {
    claim: "23 a slot that is gone is kept until that is believed",
    ...here11,
    there: [],
    staged: ["x"],
    actions: [],
  },
  {
    claim: "24 … and then taken back",
    ...here11,
    there: [],
    staged: ["x"],
    journal: {
      slots: new Map([["x", record("x", "seen", 500, { obsolete: true, staged: [stagedFrom()] })]]),
    },
    actions: ["unstage x"],
  },
  {
    claim: "25 a slot that the primary has invalidated is taken back",
    ...here11,
    there: [slot("x", 500, { invalidation: "wal_removed" })],
    staged: ["x"],
    actions: ["unstage x"],
    x: "blocked(slot_invalidated)",
  },
  {
    claim: "26 a slot that was recreated as another is staged anew in its place",
    ...here11,
    there: [slot("x", 500, { plugin: "wal2json" })],
    staged: ["x"],
    actions: ["stage x<x*"],
  },
  {
    claim: "26b … and one that the primary has taken back, lest ours be ahead of it (I1)",
    ...here11,
    there: [slot("x", 499)],
    staged: ["x"],
    actions: ["stage x<x*"],
  },
  {
    claim: "27 a foreign folder is left alone, and its name is not ready (I7)",
    ...here11,
    there: [slot("x", 500), slot("y", 500)],
    foreign: ["x"],
    actions: ["stage y<y"],
    x: "waiting(name_conflict)",
    says: "remove it there",
  },
  {
    claim: "28 … not even when a guard covers it: after a promotion it could not be made (I6)",
    here: [guardHere, slot(LOW, 100)],
    foreign: ["x"],
    actions: [],
    x: "waiting(name_conflict)",
  },
  {
    claim: "29 a guard's folder of a lost attempt of ours is taken back",
    ...here11,
    there: [],
    foreign: [`${GUARD}7`],
    actions: [`unstage ${GUARD}7`],
  },
  {
    claim: "30 another journal's guards are left alone",
    ...here11,
    there: [],
    foreign: ["slotsync_guard_1_deadbeef_1"],
    actions: [],
  },
  {
    claim: "31 a name that is no slot's is not touched (I13)",
    ...here11,
    there: [slot("../x", 500)],
    foreign: ["../x"],
    actions: [],
  },
  {
    claim: "32 nothing is staged into a directory that is not the standby's",
    files: { problem: { reason: "restart_pending", detail: "is another's" } },
    actions: [],
    x: "waiting(restart_pending)",
    says: "is another's",
  },
  {
    claim: "33 over settings that do not start with a logical slot, what is staged is taken back (I11)",
    staged: ["x"],
    guards: true,
    files: { problem: { reason: "restart_pending", detail: "wal_level = replica" } },
    actions: [`unstage ${GUARD}`, `unstage ${LOW}`, "unstage x"],
    x: "waiting(restart_pending)",
    says: "wal_level = replica",
  },
  {
    claim: "34 … also of a slot that is missing on the primary for a while",
    ...here11,
    there: [],
    staged: ["x"],
    files: { problem: { reason: "restart_pending", detail: "wal_level = replica" } },
    actions: ["unstage x"],
  },
  {
    claim: "35 … and others' folders are left alone",
    ...here11,
    foreign: ["y"],
    files: { problem: { reason: "restart_pending", detail: "wal_level = replica" } },
    actions: [],
  },
  {
    claim: "36 without a data directory nothing is done, and the status says what to set",
    files: null,
    actions: [],
    x: "waiting(restart_pending)",
    says: "set standby.data_directory",
  },
  {
    claim: "37 without the grant on the primary nothing is staged, and the status says which",
    primary: { mayReadFiles: false },
    actions: [],
    x: "waiting(permission_denied)",
    says: "GRANT EXECUTE",
  },
  {
    claim: "38 one thing after another: nothing is planned while files are at work",
    memory: { filesBusy: true },
    actions: [],
  },
  {
    claim: "39 what failed rests, and says why",
    ...here11,
    memory: {
      backoff: new Map([
        ["stage:x", { reason: "statement_failed", detail: "it broke", retryAt: NOW + 1, failures: 1 }],
      ]),
    },
    actions: [],
    x: "waiting(statement_failed)",
    says: "it broke",
  },
  {
    claim: "40 … alone (I9)",
    ...here11,
    there: [slot("x", 500), slot("y", 500)],
    memory: {
      backoff: new Map([
        ["stage:x", { reason: "statement_failed", detail: "it broke", retryAt: NOW + 1, failures: 1 }],
      ]),
    },
    actions: ["stage y<y"],
  },
  {
    claim: "41 a slot whose creation has not finished is not staged",
    ...here11,
    there: [slot("x", null)],
    actions: [],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "42 … nor one of a database that is not here yet",
    ...here11,
    there: [slot("x", 500, { databaseOid: 9 })],
    actions: [],
    x: "waiting(database_missing)",
  },
  {
    claim: "43 a slot that is loaded is not staged",
    ...here11,
    here: [slot("x", 500)],
    staged: ["x"],
    files: { folders: [], folderCount: 1 },
    actions: ["fetch_mappings x", "complete x"],
  },
  {
    claim: "44 … and completed only once replay has come to it (I2 e)",
    ...here11,
    here: [slot("x", 500)],
    staged: ["x"],
    files: { folders: [], folderCount: 1 },
    standby: { replayLsn: lsn(499) },
    actions: ["fetch_mappings x"],
  },
  {
    claim: "45 at most fifty are written a cycle",
    ...here11,
    there: Array.from({ length: 60 }, (_, n) => slot(`s${n}`, 500)),
    files: { maxReplicationSlots: 100 },
    actions: Array.from({ length: 50 }, (_, n) => `stage s${n}<s${n}`),
  },
  {
    claim: "46 16 by SQL stages nothing",
    version: 160_014,
    here: [guardHere],
    policy: { provision: "sql", restarts: true },
    actions: [],
  },
  {
    claim: "47 16 auto without restarts stages nothing",
    version: 160_014,
    here: [guardHere],
    policy: { provision: "auto" },
    actions: [],
  },
  {
    claim: "48 16 auto with restarts stages what is behind all that is kept here",
    version: 160_014,
    there: [behind],
    here: [guardHere],
    ...auto16,
    actions: ["stage x<x"],
    x: "waiting(wal_or_rows_removed)",
  },
  {
    claim: "49 … which says so once it is staged",
    version: 160_014,
    there: [behind],
    here: [guardHere],
    ...auto16,
    staged: ["x"],
    stagedAs: { restartLsn: lsn(40), confirmedFlushLsn: lsn(50) },
    actions: [],
    x: "waiting(restart_pending)",
    says: "is staged",
  },
  {
    claim: "50 … and is taken back when SQL can make it",
    version: 160_014,
    there: [slot("x", 500)],
    here: [guardHere],
    ...auto16,
    staged: ["x"],
    actions: ["unstage x"],
  },
  {
    claim: "51 16 auto with restarts stages two_phase slots, which no copy can be (G5)",
    version: 160_014,
    there: [slot("x", 500, { twoPhase: true })],
    here: [guardHere],
    ...auto16,
    actions: ["stage x<x"],
    x: "waiting(restart_pending)",
  },
  {
    claim: "52 … by SQL it is blocked, with what to set",
    version: 160_014,
    there: [slot("x", 500, { twoPhase: true })],
    here: [guardHere],
    policy: { provision: "sql", restarts: true },
    actions: [],
    x: "blocked(prepared_transactions_pending)",
    says: "slots.provision = auto or file",
  },
  {
    claim: "53 16 by file stages every slot, and guards by SQL all the same",
    version: 160_014,
    policy: { provision: "file" },
    actions: ["stage x<x"],
    x: "waiting(restart_pending)",
  },
  {
    claim: "54 a foreign folder stands in the way on 16 too",
    version: 160_014,
    here: [guardHere],
    foreign: ["x"],
    actions: [],
    x: "waiting(name_conflict)",
  },
  {
    claim: "55 … but not what is just being made there",
    version: 160_014,
    here: [guardHere],
    foreign: ["x"],
    memory: { busyDatabases: new Set([1]) },
    actions: [],
    x: "guarded",
  },
];

function run(each: Case): Plan {
  const {
    version = 150_018,
    there = [slot("x", 500)],
    here = [],
    staged = [],
    foreign = [],
    guards = false,
  } = each;
  const attempt = stagedFrom(each.stagedAs);
  const old = version < 160_000;
  const names = [...(guards ? [GUARD, LOW] : []), ...staged];
  const guardRecord = (name: string) => ({
    name,
    ...{ database: "db1", databaseOid: 1, state: "creating" as const, maxTarget: null, ...UNPROVISIONED },
    staged: guards ? [attempt] : [],
  });
  const folders = [
    ...names
      .filter((name) => !here.some((local) => local.name === name))
      .map((name) => folderOf(name, attempt)),
    ...foreign.map((name) => ({ name, state: null })),
  ];
  const known = staged.map((name) => record(name, "seen", 500, { staged: [attempt] }));
  const loaded = known.map((each) =>
    here.some(({ name }) => name === each.name) ? { ...each, state: "creating" as const, births: [] } : each,
  );
  const journal = journalOf(loaded, {
    ...(old
      ? {
          guardSerial: guards ? 2 : 0,
          guards: guards ? { 1: guardRecord(GUARD) } : {},
          lowGuards: guards ? { 1: guardRecord(LOW) } : {},
        }
      : {}),
    ...(here.some(({ name }) => name === GUARD) && old && !guards
      ? {
          guardSerial: 2,
          guards: {
            1: {
              ...guardRecord(GUARD),
              state: "owned" as const,
              proof: { start: true, wal: true, mappings: true },
            },
          },
          lowGuards: {
            1: {
              ...guardRecord(LOW),
              state: "owned" as const,
              proof: { start: true, wal: true, mappings: true },
            },
          },
        }
      : {}),
    ...each.journal,
  });
  const files: FilesView | null =
    each.files === null
      ? null
      : { problem: null, folders, folderCount: folders.length, maxReplicationSlots: 20, ...each.files };
  return plan({
    primary: primaryView(there, { serverVersionNum: version, ...each.primary }),
    standby: standbyView(here, { serverVersionNum: version, files, ...each.standby }),
    chosen: there.filter(({ name }) => !each.excluded?.includes(name)),
    journal,
    policy: {
      guardDatabases: "auto",
      duty: 0.1,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
      ...each.policy,
    },
    memory: memory(each.memory),
  });
}

function shown(action: Action): string[] {
  if (action.kind === "stage")
    return [`stage ${action.slot}<${action.source ?? "-"}${action.again ? "*" : ""}`];
  return ["unstage", "complete", "fetch_mappings"].includes(action.kind) && "slot" in action
    ? [`${action.kind} ${action.slot}`]
    : [];
}

describe("what is done with slot files", () => {
  test.each(CASES)("$claim", (each) => {
    const { actions, verdicts } = run(each);
    expect(actions.flatMap(shown)).toEqual(each.actions);
    const verdict = verdicts.get("x");
    if (each.x !== undefined)
      expect(verdict?.reason ? `${verdict.protection}(${verdict.reason})` : verdict?.protection).toBe(each.x);
    if (each.says !== undefined) expect(verdict?.detail).toContain(each.says);
  });
});

describe("what is left unstaged is named, with why", () => {
  const left = (given: Partial<Case>) =>
    run({ claim: "", actions: [], ...given }).unstaged.map(
      ({ slot: name, reason, detail }) => `${name} ${reason} ${detail}`,
    );

  test("without the file grant: each slot and each database's guards, with the GRANT for the role and database that polled", () => {
    const polledAs = { role: '"side car"', database: "app" };
    const grant = expect.stringMatching(
      /permission_denied .*GRANT EXECUTE ON FUNCTION pg_read_binary_file\(text, bigint, bigint, boolean\) TO "side car"; there, in database "app"/,
    );
    expect(left({ primary: { mayReadFiles: false, polledAs } })).toEqual([grant, grant]);
    expect(left({ primary: { mayReadFiles: false, polledAs }, ...here11 })).toEqual([grant]);
  });

  test.each<[string, Partial<Case>, (string | RegExp)[]]>([
    ["what is about to be staged is not left", {}, []],
    ["what is staged is not", { staged: ["x"], guards: true }, []],
    ["what is here is not", { here: [slot("x", 500), slot(GUARD, 500), slot(LOW, 500)], guards: true }, []],
    [
      "no room at the next start",
      { files: { maxReplicationSlots: 2, folderCount: 2 } },
      [/^x too_many_slots/, /^the guards of database "db1" too_many_slots/],
    ],
    ["a folder that nobody knows", { foreign: ["x"], guards: true }, [/^x name_conflict/]],
    [
      "an invalidated slot",
      { there: [slot("x", 500, { invalidation: "wal_removed" }), slot("y", 500)] },
      [/^x slot_invalidated/],
    ],
    ["on 16, where slots come by SQL, none is", { version: 160_014 }, []],
  ])("%s", (_, given, expected) => {
    expect(left(given)).toEqual(expected.map((each) => expect.stringMatching(each)));
  });

  test("a command that does not come back stages all of them, a sidecar a part in each cycle", () => {
    const there = Array.from({ length: 60 }, (_, at) => slot(`x${at}`, 500));
    const files = { maxReplicationSlots: 100 };
    const staged = (stageAll: boolean) =>
      run({ claim: "", actions: [], there, files, memory: { stageAll } }).actions.filter(
        ({ kind }) => kind === "stage",
      );
    expect([staged(true).length, staged(false).length]).toEqual([62, 50]);
  });
});

describe("slots of table syncs are never staged: they are gone before the next start", () => {
  const sync = "pg_16400_sync_16389_7714095152818310914";

  test.each<[string, Partial<Case>, string]>([
    [
      "on 15 a guard holds it",
      { here: [slot(GUARD, 400)], journal: { guards: journalOf().guards } },
      "guarded",
    ],
    ["… and without one it waits for the start that brings guards", {}, "waiting restart_pending"],
    [
      "on 16 it comes by SQL, whatever the others do",
      { version: 160_014, here: [slot(GUARD, 400)], policy: { provision: "file" } },
      "guarded",
    ],
  ])("%s", (_, given, expected) => {
    const { actions, verdicts, unstaged } = run({
      claim: "",
      actions: [],
      there: [slot(sync, 500)],
      ...given,
    });
    expect(
      actions.flatMap((action) => (action.kind === "stage" && action.slot === sync ? [action] : [])),
    ).toEqual([]);
    const { protection, reason } = verdicts.get(sync) ?? {};
    expect([protection, reason].filter(Boolean).join(" ")).toBe(expected);
    expect(unstaged.filter(({ slot: name }) => name === sync)).toEqual([]);
  });
});

describe("what staged slots still need", () => {
  const old = stagedFrom({ restartLsn: lsn(10), pin: "p1" });
  const newer = stagedFrom({ restartLsn: lsn(20), pin: "p2" });
  const unproven = { start: true, wal: false, mappings: true };

  test.each([
    [
      "every attempt that may be loaded",
      record("x", "seen", 500, { staged: [old, newer] }),
      ["p1", "p2"],
      [10, 20],
    ],
    [
      "what was loaded, until it is proven",
      record("x", "owned", 500, { origin: newer, proof: unproven }),
      ["p2"],
      [20],
    ],
    ["nothing when it is proven", record("x", "owned", 500, { origin: newer }), [], []],
    [
      "nothing for rewrite mappings, which the primary's own slots keep (I12)",
      record("x", "owned", 500, { origin: newer, proof: { ...PROVEN, mappings: false } }),
      [],
      [],
    ],
    ["no pin where there was none", record("x", "seen", 500, { staged: [{ ...old, pin: null }] }), [], [10]],
  ])("%s", (_claim, each, pins, snapshots) => {
    const needed = stillNeeded(journalOf([each]));
    expect([...needed.pins]).toEqual(pins);
    expect(needed.snapshots).toEqual(snapshots.map(lsn));
  });

  test("what is staged is what lies there and the journal knows, guards with it", () => {
    const attempt = stagedFrom();
    const guard = {
      name: GUARD,
      database: "db1",
      databaseOid: 1,
      state: "creating",
      maxTarget: null,
    } as const;
    const journal = journalOf([record("x", "seen", 500, { staged: [attempt] }), record("y", "seen", 500)], {
      guards: { 1: { ...guard, ...UNPROVISIONED, staged: [attempt] } },
    });
    const folders = [folderOf("x", attempt), folderOf("y", attempt), folderOf(GUARD, attempt)];
    const files = { problem: null, folders, folderCount: 3, maxReplicationSlots: 20 };
    expect(stagedNames({ journal, standby: { files } })).toEqual([GUARD, "x"]);
  });
});

describe("which attempts are remembered", () => {
  const attempts = Array.from({ length: 6 }, (_, index) => stagedFrom({ restartLsn: lsn(480 + index) }));
  const [held] = attempts as [Staged];
  const restaged = (journal: JournalState, name: string) =>
    attempts.reduce((known, attempt) => noteStaged(known, name, attempt), journal);
  const guards = {
    1: {
      ...{ name: GUARD, database: "db1", databaseOid: 1, state: "staging" as const, maxTarget: null },
      ...UNPROVISIONED,
    },
  };
  const start = () => restaged(restaged(journalOf([record("x", "seen", 500)], { guards }), "x"), GUARD);
  const stagedIn = (journal: JournalState) => [journal.slots.get("x")?.staged, journal.guards[1]?.staged];
  const look = (
    journal: JournalState,
    folders: string[],
    more: Partial<Parameters<typeof noteObservation>[1]> = {},
  ) =>
    noteObservation(journal, {
      primary: primaryView([slot("x", 500)], { serverVersionNum: 150_018 }),
      standby: standbyView([], {
        serverVersionNum: 150_018,
        files: {
          ...{ problem: null, folderCount: folders.length, maxReplicationSlots: 20 },
          folders: folders.map((name) => folderOf(name, held)),
        },
      }),
      chosen: [slot("x", 500)],
      plan: { verdicts: new Map(), spared: new Set() },
      ...{ busy: new Set<number>(), filesBusy: false, problems: [], now: NOW },
      ...more,
    });

  test("also the one that the folder holds, however many have not been written since (I6, I7)", () => {
    expect(stagedIn(start())).toEqual([attempts, attempts]);
    expect(stagedIn(look(start(), ["x", GUARD], { filesBusy: true }))).toEqual([attempts, attempts]);
  });

  test("a look leaves that one alone: the pins of the others are let go (I12)", () => {
    expect(stagedIn(look(start(), ["x", GUARD]))).toEqual([[held], [held]]);
    expect(stagedIn(look(start(), []))).toEqual([[], []]);
  });

  test("loaded in the place of one that was proven, it is not proven by that (I2, I4)", () => {
    const known = journalOf([record("x", "owned", 600, { staged: [held] })]);
    const loaded = slot("x", 500, { restartLsn: held.restartLsn });
    const standby = standbyView([loaded], { serverVersionNum: 150_018 });
    const x = look(known, [], { standby }).slots.get("x");
    expect(x?.origin).toEqual({ ...held, loadedBy: standby.replayLsn });
    expect(x?.proof).toMatchObject({ start: false, wal: false, mappings: false });
  });

  test("how far replay had come when it was first seen loaded is kept, of a guard as well (I16)", () => {
    const known = journalOf([record("x", "seen", 500, { staged: [held] })], {
      guards: { 1: { ...guards[1], staged: [held] } },
    });
    const here = [
      slot("x", 500, { restartLsn: held.restartLsn }),
      slot(GUARD, 500, { restartLsn: held.restartLsn }),
    ];
    const seenAt = (journal: JournalState, replay: number) =>
      look(journal, [], {
        standby: standbyView(here, { serverVersionNum: 150_018, replayLsn: lsn(replay) }),
      });
    const later = seenAt(seenAt(known, 700), 900);
    expect([later.slots.get("x")?.origin?.loadedBy, later.guards[1]?.origin?.loadedBy]).toEqual([
      lsn(700),
      lsn(700),
    ]);
  });

  test("a guard loaded from a file that nobody knows protects nobody, and goes (I2)", () => {
    const x = slot("x", 500);
    const { actions, verdicts } = plan({
      primary: primaryView([x], { serverVersionNum: 150_018 }),
      standby: standbyView([slot(GUARD, 400)], { serverVersionNum: 150_018 }),
      chosen: [x],
      journal: journalOf([], { guards }),
      policy: {
        guardDatabases: "auto",
        duty: 0.1,
        provision: "auto",
        restarts: false,
        onConflict: "adopt",
        releaseAfterMs: null,
      },
      memory: memory(),
    });
    expect(verdicts.get("x")?.protection).toBe("waiting");
    expect(actions).toContainEqual({
      ...{ kind: "drop_leftover", slot: GUARD, database: "db1", databaseOid: 1 },
    });
  });

  test("a guard that the server has given up makes room, and another is staged in its place (I3, G2)", () => {
    const record: GuardRecord = {
      ...{ name: GUARD, database: "db1", databaseOid: 1, state: "owned", maxTarget: null },
      ...{ ...UNPROVISIONED, proof: PROVEN },
    };
    const planned = (local: LogicalSlot) =>
      plan({
        primary: primaryView([], { serverVersionNum: 150_018 }),
        standby: standbyView([local], { serverVersionNum: 150_018 }),
        chosen: [],
        journal: journalOf([], { guards: { 1: record } }),
        policy: {
          guardDatabases: "auto",
          duty: 0.1,
          provision: "auto",
          restarts: false,
          onConflict: "adopt",
          releaseAfterMs: null,
        },
        memory: memory(),
      }).actions.map(({ kind }) => kind);
    expect(planned(slot(GUARD, 400))).not.toContain("drop_leftover");
    expect(planned(slot(GUARD, 400, { invalidation: "wal_removed" }))).toContain("drop_leftover");
  });

  test("a name that has been forgotten while its file was on the way takes none: nobody would take it back (I6)", () => {
    expect(() => noteStaged(journalOf(), "x", held)).toThrow("not to be staged any more");
    expect(() => noteStaged(journalOf(), GUARD, held)).not.toThrow();
  });
});

test.each([
  { claim: "1 a loaded slot that is not proven is guarded while a copy has room", slots: 4, x: "guarded" },
  {
    claim: "2 … dropped it leaves no room for the working copy as well: then nothing makes it anew (G2)",
    slots: 3,
    x: "waiting",
  },
])("$claim", ({ slots, x }) => {
  const loaded = stagedFrom();
  const original = slot("x", 500, { restartLsn: loaded.restartLsn });
  const other = slot("y", 500);
  const { verdicts, actions } = plan({
    primary: primaryView([original, other], { serverVersionNum: 150_018 }),
    standby: standbyView([slot(GUARD, 500), original, other], {
      ...{ serverVersionNum: 150_018, maxReplicationSlots: slots },
    }),
    chosen: [original, other],
    journal: journalOf([record("x", "seen", 500, { staged: [loaded] }), record("y", "owned", 500)]),
    policy: {
      guardDatabases: "auto",
      duty: 0.1,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
    },
    memory: memory(),
  });
  expect(verdicts.get("x")?.protection).toBe(x);
  // the guard waits for it all the same (G1)
  expect(actions.filter(({ kind }) => kind === "advance_guard")).toEqual([]);
});
