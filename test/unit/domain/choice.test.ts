/** Which slots are failover slots: rules and flags together, and what holds while flags cannot be read. */
import { describe, expect, test } from "vitest";
import { answer, assessFromJournal } from "../../../src/domain/assess.ts";
import { choiceProblems, chooseSlots, type Selection } from "../../../src/domain/choice.ts";
import type { SlotRecord } from "../../../src/domain/journal.ts";
import { noteObservation } from "../../../src/domain/journal-update.ts";
import { judge } from "../../../src/domain/judge.ts";
import type { PrimaryView } from "../../../src/domain/observation.ts";
import type { Policy } from "../../../src/domain/plan.ts";
import { MOST_FLAGS, type Registry, registryOf } from "../../../src/domain/registry.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { buildStatus } from "../../../src/domain/status.ts";
import { guard, journalOf, memory, NOW, primaryView, record, slot, standbyView } from "./build.ts";

const flagging = (...names: string[]): Registry => ({ kind: "read", names: new Set(names) });
const ABSENT: Registry = { kind: "absent", database: "postgres" };
const UNREADABLE: Registry = { kind: "unreadable", why: "GRANT it" };
const NO_RULES: Selection = { include: [], exclude: [] };
const RULES: Selection = { include: [{ nameLike: "app%" }], exclude: [{ name: "app_scratch" }] };

const POLICY: Policy = {
  guardDatabases: "auto",
  duty: 0.1,
  provision: "auto",
  restarts: false,
  onConflict: "adopt",
  releaseAfterMs: null,
};

interface Case {
  slots?: LogicalSlot[];
  registry?: Registry;
  selection?: Selection;
  known?: SlotRecord[];
  primary?: Partial<PrimaryView>;
}

function choose({
  slots = [slot("app", 500)],
  registry = ABSENT,
  selection = NO_RULES,
  known = [],
  primary,
}: Case) {
  const view = primaryView(slots, { registry, ...primary });
  const journal = journalOf(known);
  const choice = chooseSlots(view, selection, journal);
  return {
    chosen: Object.fromEntries(choice.chosen.map(({ name, chosenBy }) => [name, chosenBy.join(", ")])),
    not: Object.fromEntries(choice.notChosen.map(({ name, why }) => [name, why])),
    problems: choiceProblems(view, selection, choice, journal).map(
      ({ code, severity, message }) => `${severity} ${code}: ${message}`,
    ),
  };
}

const byRegistry = (name: string, more: Partial<SlotRecord> = {}) =>
  record(name, "owned", 500, { chosenBy: ["registry"], ...more });

describe("flags and rules combine: chosen is what is flagged or included, and not excluded", () => {
  test.each<[string, Case, string]>([
    ["a flag in the registry", { registry: flagging("app") }, "registry"],
    ["the server's own flag (17+)", { slots: [slot("app", 500, { failover: true })] }, "flag"],
    ["a rule", { selection: RULES }, 'rule name_like "app%"'],
    [
      "all of them",
      { slots: [slot("app", 500, { failover: true })], registry: flagging("app"), selection: RULES },
      'flag, registry, rule name_like "app%"',
    ],
  ])("by %s", (_, given, chosenBy) => {
    expect(choose(given)).toEqual({ chosen: { app: chosenBy }, not: {}, problems: [] });
  });

  test.each<[string, Case, string]>([
    [
      "nothing says so",
      { registry: flagging("other"), selection: RULES, slots: [slot("x", 500)] },
      "not flagged, no rule of slots.include matches",
    ],
    ["there are neither flags nor rules", { slots: [slot("x", 500)] }, "not flagged, slots.include is empty"],
    [
      "it is excluded, though flagged",
      {
        slots: [slot("app_scratch", 500, { failover: true })],
        registry: flagging("app_scratch"),
        selection: RULES,
      },
      'excluded by rule name "app_scratch"',
    ],
  ])("not when %s", (_, given, why) => {
    const { chosen, not } = choose(given);
    expect([chosen, Object.values(not)]).toEqual([{}, [why]]);
  });

  test("never a temporary slot, nor a sidecar's own, whatever says so (I7)", () => {
    const own = "slotsync_guard_1_0badcafe_1";
    const slots = [slot("tmp", 500, { temporary: true }), slot(own, 500, { failover: true })];
    const { chosen, not } = choose({
      slots,
      registry: flagging("tmp", own),
      selection: { include: [{ nameLike: "%" }], exclude: [] },
    });
    expect([chosen, not]).toEqual([{}, {}]);
  });
});

describe("what the registry chose stays chosen while nobody can say whether it still does", () => {
  test.each<[string, Registry, string]>([
    [
      "cannot be read",
      UNREADABLE,
      "doubt registry_unreadable: which slots are flagged cannot be read (those that were stay so): GRANT it",
    ],
    [
      "is gone",
      ABSENT,
      'doubt registry_missing: slotsync.failover_slot, which flagged "app", is gone from database "postgres" of the primary',
    ],
  ])("the registry %s: nothing is dropped, and the standby is not called ready", (_, registry, told) => {
    const seen = choose({ registry, known: [byRegistry("app")] });
    expect(seen.chosen).toEqual({ app: "registry" });
    expect(seen.problems).toEqual([expect.stringContaining(told)]);
  });

  test("a doubt keeps from being ready and not from acting; a slot by rule goes with its rule", () => {
    const view = primaryView([slot("app", 500), slot("ruled", 500)], { registry: UNREADABLE });
    const journal = journalOf([
      byRegistry("app"),
      record("ruled", "owned", 400, { chosenBy: ['rule name "ruled"'] }),
    ]);
    const here = standbyView([slot("app", 400), slot("ruled", 400)]);
    const { chosen, actions, problems } = judge(view, here, journal, NO_RULES, POLICY, memory());
    expect(chosen.map(({ name }) => name)).toEqual(["app"]);
    expect(actions.map((action) => [action.kind, "slot" in action ? action.slot : ""])).toEqual(
      expect.arrayContaining([
        ["drop", "ruled"],
        ["advance", "app"],
      ]),
    );
    expect(buildStatus(journal, here, problems, "live").ready).toBe(false);
  });

  test.each<[string, Case]>([
    ["an empty registry is an answer", { registry: flagging() }],
    ["a slot that was given up already", { known: [byRegistry("app", { obsolete: true })] }],
    [
      "17 and later, where an absent registry leaves the server's own flags",
      { primary: { serverVersionNum: 170_010 } },
    ],
  ])("not so: %s", (_, given) => {
    expect(choose({ known: [byRegistry("app")], ...given }).chosen).toEqual({});
  });

  test("the journal keeps what chose a slot, also while it is only kept", () => {
    const start = journalOf([byRegistry("app")]);
    const view = primaryView([slot("app", 500)], { registry: ABSENT });
    const { chosen } = chooseSlots(view, NO_RULES, start);
    const plan = { verdicts: new Map(), spared: new Set<string>() };
    const seen = { primary: view, standby: standbyView([slot("app", 500)]), chosen, plan };
    const rest = { busy: new Set<number>(), filesBusy: false, problems: [], now: NOW };
    const journal = noteObservation(start, { ...seen, ...rest });
    expect(journal.slots.get("app")?.chosenBy).toEqual(["registry"]);
    expect(chooseSlots(view, NO_RULES, journal).chosen).toHaveLength(1);
  });
});

describe("what is said of the choice", () => {
  test("how to choose slots, when nothing does", () => {
    const told = [
      expect.stringMatching(/^doubt nothing_chosen: no slot is chosen.*slotsync flag NAME.*slots\.include/),
    ];
    expect(choose({}).problems).toEqual(told);
    expect(choose({ registry: flagging() }).problems).toEqual(told);
  });

  test("which rule matches nothing, when nothing is chosen: none is protected then, and nobody is to take that for ready (I18)", () => {
    const told = (given: Case) => choose({ selection: RULES, ...given }).problems;
    expect(told({ slots: [] })).toEqual([
      'doubt nothing_chosen: no slot is chosen, so none is protected: rule name_like "app%" matches no logical slot of the primary (it has none)',
    ]);
    expect(told({ slots: [slot("billing", 500)] })).toEqual([
      'doubt nothing_chosen: no slot is chosen, so none is protected: rule name_like "app%" matches no logical slot of the primary: correct slots.include, or create the slot',
    ]);
    expect(told({ slots: [slot("app_scratch", 500)] })).toEqual([
      expect.stringContaining('rule name_like "app%" matches only slots that slots.exclude leaves out'),
    ]);
  });

  test("a rule that matches nothing, where others choose: a warning", () => {
    const selection = { include: [{ name: "app" }, { name: "billng" }, { plugin: "pgoutput" }], exclude: [] };
    expect(choose({ selection }).problems).toEqual([
      'warning rule_matches_nothing: rule name "billng" matches no logical slot of the primary: correct it in slots.include, create the slot, or take the rule out',
    ]);
    expect(choose({ selection, registry: UNREADABLE }).problems).toHaveLength(1);
  });

  test("flagged slots that there are none of, a few by name", () => {
    const registry = flagging("app", "g", "f", "e", "d", "c", "b");
    expect(choose({ registry }).problems).toEqual([
      'warning flagged_slot_missing: the primary has no logical slot "b", "c", "d", "e", "f" and 1 more, though flagged: create what is missing, or slotsync unflag it',
    ]);
  });

  test("the slots that are not chosen are unknown when the primary does not answer", () => {
    const facts = { policy: POLICY };
    const { status } = assessFromJournal(
      {
        ...facts,
        ...{
          journal: journalOf([byRegistry("app")], { observedAt: NOW, quietUntil: NOW }),
          standby: standbyView([slot("app", 500)]),
        },
        ...{
          selection: NO_RULES,
          now: NOW,
          sidecarRunning: true,
          quietMs: 1_000,
          quietSince: 0,
          blindMs: 1_000,
          primaryProblems: [],
          signs: { flushedLsn: standbyView([]).flushedLsn, messageAgeMs: null, refused: false },
          standbyStartedS: 0,
          toWallTime: 0,
        },
      },
      "it is gone",
    );
    expect([status.notChosen, status.slots.map(({ chosenBy }) => chosenBy)]).toEqual([null, [["registry"]]]);
  });
});

describe("slots of native subscriptions' table syncs are chosen with their subscription's (K7)", () => {
  const SYNC = "pg_16400_sync_16389_7714095152818310914";
  const sub = (more: Partial<LogicalSlot> = {}) => slot("sub1", 500, more);
  const sync = (more: Partial<LogicalSlot> = {}) => slot(SYNC, 600, more);
  const BY_NAME: Selection = { include: [{ name: "sub1" }], exclude: [] };

  test.each<[string, Case, string]>([
    ["by a rule", { slots: [sync(), sub()], selection: BY_NAME }, "table sync of sub1"],
    ["by the registry", { slots: [sync(), sub()], registry: flagging("sub1") }, "table sync of sub1"],
    [
      "by the server's flag, which the sync's own slot may lack",
      { slots: [sync(), sub({ failover: true })] },
      "table sync of sub1",
    ],
    [
      "and by its own flag",
      { slots: [sync({ failover: true }), sub({ failover: true })] },
      "flag, table sync of sub1",
    ],
    [
      "whose subscription a new primary does not show yet",
      { slots: [sync()], selection: BY_NAME, known: [record("sub1", "owned", 500)] },
      "table sync of sub1",
    ],
    [
      "of one of two subscriptions in its database",
      { slots: [sync(), sub(), slot("sub2", 500)], registry: flagging("sub2", "sub1") },
      "table sync of sub1 or sub2",
    ],
  ])("%s", (_, given, chosenBy) => {
    expect(choose(given).chosen[SYNC]).toBe(chosenBy);
  });

  test.each<[string, Case]>([
    ["whose subscription is not", { slots: [sync(), sub()] }],
    ["in another database", { slots: [sync({ databaseOid: 2 }), sub()], selection: BY_NAME }],
    ["with another plugin", { slots: [sync({ plugin: "wal2json" }), sub()], selection: BY_NAME }],
    [
      "where the chosen slot is none of a subscription",
      { slots: [sync(), sub({ plugin: "wal2json" })], selection: BY_NAME },
    ],
    [
      "where another table sync is all that is chosen",
      { slots: [sync(), slot("pg_1_sync_2_3", 500)], registry: flagging("pg_1_sync_2_3") },
    ],
    [
      "that a rule excludes",
      { slots: [sync(), sub()], selection: { ...BY_NAME, exclude: [{ nameLike: "pg\\_%\\_sync\\_%" }] } },
    ],
    [
      "whose subscription was chosen, and is not any more",
      { slots: [sync(), sub()], known: [record("sub1", "owned", 500)] },
    ],
    [
      "whose subscription is given up",
      { slots: [sync()], known: [record("sub1", "owned", 500, { obsolete: true })] },
    ],
  ])("not one %s", (_, given) => {
    expect(Object.keys(choose(given).chosen)).not.toContain(SYNC);
  });

  test.each(["pg_16400_sync_16389", "pg_16400_sync_16389_1_2", "pg_a_sync_16389_1", "xpg_1_sync_2_3"])(
    "%s is not PostgreSQL's name for one",
    (name) => {
      expect(choose({ slots: [slot(name, 500), sub()], selection: BY_NAME }).chosen).toEqual({
        sub1: 'rule name "sub1"',
      });
    },
  );

  test("they come last, for the last free slot is not theirs", () => {
    const view = primaryView([sync(), sub(), slot("zoo", 500)]);
    const { chosen } = chooseSlots(view, { include: [{ nameLike: "%" }], exclude: [] }, journalOf());
    expect(chosen.map(({ name }) => name)).toEqual(["sub1", "zoo", SYNC]);
  });

  test.each<[string, Partial<LogicalSlot>, boolean]>([
    ["being made", { confirmedFlushLsn: null }, true],
    ["whose table is being copied", { copying: true }, true],
    ["whose copy has ended", {}, false],
  ])("one %s, and not protected: does not stand against being ready: %s", (_, more, ready) => {
    const view = primaryView([sub(), sync(more)]);
    // the guard is past it
    const start = journalOf([record("sub1", "owned", 500)]);
    const here = standbyView([sub(), guard(700)]);
    const judged = judge(view, here, start, BY_NAME, POLICY, memory());
    const journal = noteObservation(start, {
      primary: view,
      standby: here,
      chosen: judged.chosen,
      plan: judged.plan,
      busy: new Set(),
      filesBusy: false,
      problems: [],
      now: NOW,
    });
    const status = buildStatus(journal, here, judged.problems, "live");
    expect(status.slots.map(({ name, protection }) => [name, protection])).toEqual([
      ["sub1", "synced"],
      [SYNC, "waiting"],
    ]);
    expect([status.ready, answer({ status, certain: true }).code]).toEqual([ready, ready ? 0 : 1]);
    // its end writes no WAL: from the journal alone nobody can say that it has not come
    expect(buildStatus(journal, here, [], "journal").ready).toBe(false);
  });
});

describe("the registry's rows are somebody else's words (I13)", () => {
  test("what no slot can be called is passed over", () => {
    const rows = ["app", "App", "a b", "", "../x", "a".repeat(64), null, 7, "__proto__", "app"];
    expect(registryOf(rows)).toEqual(flagging("app", "__proto__"));
  });

  test("more rows than there can be slots are none of ours", () => {
    const rows = Array.from({ length: MOST_FLAGS + 1 }, (_, at) => `s${at}`);
    expect(registryOf(rows)).toMatchObject({ kind: "unreadable" });
    expect(registryOf(rows.slice(1))).toMatchObject({ kind: "read" });
  });
});
