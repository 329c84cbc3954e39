/** Which output plugins a server lets be used, and when that is asked again. */
import { describe, expect, test } from "vitest";
import type { StandbyView } from "../../../src/domain/observation.ts";
import { isProbeDue, listedPlugins, type PluginRules, whyRefused } from "../../../src/domain/plugins.ts";
import { guard, journalOf, NOW, planFor, record, slot, standbyView } from "./build.ts";

const OURS = 10;
const OTHER = 20;

const rules = (value: string, more: Partial<PluginRules> = {}): PluginRules => ({
  value,
  ofOurRole: false,
  roleOid: OURS,
  overrides: [],
  ...more,
});
const set = (databaseOid: number, roleOid: number, value: string) => ({ databaseOid, roleOid, value });

test.each<[string, string[] | null]>([
  ["pgoutput, test_decoding", ["pgoutput", "test_decoding"]],
  ["wal2json", ["wal2json"]],
  [' "wal2json" ,\tpgoutput ', ["wal2json", "pgoutput"]],
  ['"a, b","say ""x"""', ["a, b", 'say "x"']],
  ["Wal2Json", ["Wal2Json"]],
  ["", []],
  ["  ", []],
  ["a,,b", null],
  ["a,", null],
  ['"a', null],
  ['a"b"', null],
])("the list %j names %j, exactly as written: a slot's plugin must match it so", (list, names) => {
  expect(listedPlugins(list)).toEqual(names);
});

describe("by output_plugin_libraries (I18, K6)", () => {
  const wal2json = { plugin: "wal2json", databaseOid: 1 };
  test.each<[string, PluginRules | null, string | null]>([
    ["the server has no such setting", null, null],
    ["it is listed", rules("pgoutput, wal2json"), null],
    ["it is not", rules("pgoutput, test_decoding"), "does not list"],
    ["the case differs", rules("WAL2JSON"), "does not list"],
    ["nothing is listed", rules(""), "empty"],
    ["the list cannot be read", rules('"wal2json'), "does not list"],
    [
      "its database has another list, with it",
      rules("pgoutput", { overrides: [set(1, 0, "wal2json")] }),
      null,
    ],
    [
      "its database has another list, without it",
      rules("wal2json", { overrides: [set(1, 0, "pgoutput")] }),
      "does not list",
    ],
    ["another database has another list", rules("wal2json", { overrides: [set(2, 0, "pgoutput")] }), null],
    [
      "all roles have another list",
      rules("wal2json", { overrides: [set(0, 0, "pgoutput")] }),
      "does not list",
    ],
    [
      "ours in this database ranks above all",
      rules("x", {
        ofOurRole: true,
        overrides: [set(1, OURS, "wal2json"), set(0, OURS, "x"), set(1, 0, "wal2json")],
      }),
      null,
    ],
    [
      "ours alone has it: nobody else could read the slot",
      rules("wal2json", { ofOurRole: true, overrides: [set(0, OURS, "wal2json")] }),
      "hides",
    ],
    [
      "ours alone has it in this database",
      rules("pgoutput", { overrides: [set(1, OURS, "wal2json")] }),
      "for our role only",
    ],
    [
      "the reader's role has it too",
      rules("wal2json", {
        ofOurRole: true,
        overrides: [set(0, OURS, "wal2json"), set(0, OTHER, "wal2json")],
      }),
      null,
    ],
    [
      "the reader's role alone has it: it could not be made",
      rules("pgoutput", { overrides: [set(0, OTHER, "wal2json")] }),
      "does not list",
    ],
  ])("%s", (_, given, says) => {
    const why = whyRefused(wal2json, given);
    if (says === null) expect(why).toBeNull();
    else expect(why).toContain(says);
  });
});

describe("a slot is not ready", () => {
  const there = [slot("x", 500, { plugin: "wal2json" })];
  const ours = { databaseOid: 1, plugin: "wal2json", twoPhase: false };
  const owned = journalOf([record("x", "owned", 500, { plugin: "wal2json", ours })], {
    plugins: ["pgoutput", "wal2json"],
  });
  const verdict = (here: typeof there, standby: Partial<StandbyView>) => {
    const told = planFor({ there, here, journal: owned, standby }).verdicts.get("x");
    return told && `${told.protection}${told.reason === null ? "" : `(${told.reason})`}`;
  };
  const refused = { plugins: { rules: rules("pgoutput"), libraries: null } };
  const gone = { plugins: { rules: null, libraries: new Set(["pgoutput"]) } };

  test("once the setting lets nobody load its plugin, be it here or only guarded, however often it loaded before (I18)", () => {
    expect(verdict([guard(400), ...there], {})).toBe("synced");
    expect(verdict([guard(400), ...there], refused)).toBe("waiting(plugin_refused)");
    expect(verdict([guard(400)], refused)).toBe("waiting(plugin_refused)");
  });

  test("before 16, at the very look at which its library has gone; on 16 it is tried out (I18)", () => {
    expect(verdict([guard(400), ...there], { ...gone, serverVersionNum: 150_018 })).toBe(
      "waiting(plugin_missing)",
    );
    expect(verdict([guard(400), ...there], gone)).toBe("synced");
  });

  test("where pgoutput is refused no guard is tried, and that is the reason; one that is there goes on serving", () => {
    const none = { plugins: { rules: rules("wal2json"), libraries: null } };
    const planned = planFor({ there, here: [], journal: { ...owned, guards: {} }, standby: none });
    expect(planned.actions).toEqual([]);
    expect(planned.verdicts.get("x")).toMatchObject({ reason: "plugin_refused" });
    expect(verdict([guard(400)], none)).toBe("guarded");
  });
});

describe("that a plugin loads is seen once more", () => {
  const known = journalOf([], { plugins: ["pgoutput", "wal2json"] });
  const due = (ageMs: number | null, libraries: string[] | null, version = 160_014) =>
    isProbeDue(
      "wal2json",
      standbyView([], {
        serverVersionNum: version,
        plugins: { rules: null, libraries: libraries && new Set(libraries) },
      }),
      known,
      ageMs === null ? null : NOW - ageMs,
      NOW,
    );

  test.each<[string, boolean, boolean]>([
    ["after half a minute", due(30_000, null), true],
    ["not before", due(29_999, null), false],
    ["after a few seconds where its library seems to be gone", due(5_000, ["pgoutput"]), true],
    ["not at once, for it may be another container's folder", due(4_999, ["pgoutput"]), false],
    ["after half a minute where the library lies there: it may be broken", due(30_000, ["wal2json"]), true],
    ["not in a process that tries nothing", due(null, null), false],
    ["not before 16, where the folder can be seen", due(99_999, ["wal2json"], 150_018), false],
    ["before 16, where it cannot", due(99_999, null, 150_018), true],
  ])("%s (I18)", (_, seen, expected) => {
    expect(seen).toBe(expected);
  });

  test("a plugin that was never seen to load is tried in any case; pgoutput is part of the server", () => {
    const unknown = standbyView([], { plugins: { rules: null, libraries: null } });
    expect(isProbeDue("decoderbufs", unknown, known, null, NOW)).toBe(true);
    expect(isProbeDue("pgoutput", unknown, known, 0, NOW)).toBe(false);
  });
});
