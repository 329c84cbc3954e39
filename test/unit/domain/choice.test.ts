/** Which slots are failover slots: rules and flags together, and what holds while flags cannot be read. */
import { describe, expect, test } from "vitest";
import { assessFromJournal } from "../../../src/domain/assess.ts";
import { choiceProblems, chooseSlots, type Selection } from "../../../src/domain/choice.ts";
import type { SlotRecord } from "../../../src/domain/journal.ts";
import { noteObservation } from "../../../src/domain/journal-update.ts";
import { judge } from "../../../src/domain/judge.ts";
import type { PrimaryView } from "../../../src/domain/observation.ts";
import type { Policy } from "../../../src/domain/plan.ts";
import { MOST_FLAGS, type Registry, registryOf } from "../../../src/domain/registry.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { buildStatus } from "../../../src/domain/status.ts";
import { journalOf, memory, NOW, primaryView, record, slot, standbyView } from "./build.ts";

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
    expect(choose({ slots: [], selection: RULES }).problems).toEqual([]);
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
        },
      },
      "it is gone",
    );
    expect([status.notChosen, status.slots.map(({ chosenBy }) => chosenBy)]).toEqual([null, [["registry"]]]);
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
