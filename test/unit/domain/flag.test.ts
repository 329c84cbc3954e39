/** What `slotsync flag` and `unflag` do for a slot, before 17 in the registry, from 17 on with the server's own flag. */
import { describe, expect, test } from "vitest";
import { inOneTransaction } from "../../../src/cli/flag.ts";
import { type FlagSlot, type FlagView, planFlag, whyNoName } from "../../../src/domain/flag.ts";
import { statementsFor } from "../../../src/sync/flags.ts";

const app: FlagSlot = {
  ...{ name: "app", plugin: "pgoutput", database: "shop" },
  ...{ temporary: false, activePid: null, failover: false },
};
const view = (major: number, slots: Partial<FlagSlot>[], flagged: string[] | null = []): FlagView => ({
  serverVersionNum: major * 10_000,
  slots: slots.map((slot) => ({ ...app, ...slot })),
  flags: flagged?.map((name) => ({ name, flaggedAt: null, flaggedBy: null })) ?? null,
});

/** `server`, `registry`, both or neither, then what is told. */
function plan(on: boolean, seen: FlagView, name = "app"): string {
  const { server, registry, refusal, told } = planFlag(name, on, seen);
  const does = [...(server ? ["server"] : []), ...(registry ? ["registry"] : [])].join("+") || "nothing";
  return refusal === null ? `${does}: ${told}` : `refused: ${refusal}`;
}

test.each<[string, boolean, FlagView, string]>([
  ["15, a slot", true, view(15, [{}]), "registry: flagged"],
  ["15, in use", true, view(15, [{ activePid: 7 }]), "registry: flagged"],
  ["15, without a registry yet", true, view(15, [{}], null), "registry: flagged"],
  ["15, flagged", true, view(15, [{}], ["app"]), "nothing: was flagged already"],
  [
    "15, no such slot",
    true,
    view(15, []),
    "registry: flagged; there is no such slot yet: it is a failover slot from when it is made",
  ],
  ["15, physical", true, view(15, [{ plugin: null }]), "refused: it is a physical slot"],
  ["15, temporary", true, view(15, [{ temporary: true }]), "refused: it is a temporary slot"],
  ["15, unflag", false, view(15, [{ activePid: 7 }], ["app"]), "registry: unflagged"],
  ["15, unflag what is not there any more", false, view(15, [], ["app"]), "registry: unflagged"],
  ["15, unflag what was not", false, view(15, [{}]), "nothing: was not flagged"],
  ["17, a slot", true, view(17, [{}]), "server: flagged"],
  ["17, flagged, in use", true, view(17, [{ failover: true, activePid: 7 }]), "nothing: was flagged already"],
  ["17, flagged in the registry only", true, view(17, [{}], ["app"]), "server: flagged"],
  ["17, in use", true, view(17, [{ activePid: 7 }]), "refused: it is in use by server process 7"],
  [
    "17, no such slot",
    true,
    view(17, []),
    "refused: there is no such slot, and since 17 the flag is part of the slot",
  ],
  ["17, physical", true, view(17, [{ plugin: null }]), "refused: it is a physical slot"],
  ["17, temporary", true, view(17, [{ temporary: true }]), "refused: it is a temporary slot"],
  ["17, unflag", false, view(17, [{ failover: true }]), "server: unflagged"],
  ["17, unflag both", false, view(17, [{ failover: true }], ["app"]), "server+registry: unflagged"],
  ["17, unflag in use", false, view(17, [{ failover: true, activePid: 7 }]), "refused: it is in use by"],
  ["17, unflag what is gone", false, view(17, []), "nothing: was not flagged"],
])("%s", (_, on, seen, expected) => {
  expect(plan(on, seen).startsWith(expected), plan(on, seen)).toBe(true);
});

test.each([
  ["app_1", null],
  ["App", "is not the name of a slot"],
  ["a'); DROP TABLE x; --", "is not the name of a slot"],
  ["", "is not the name of a slot"],
  ["a".repeat(64), "is not the name of a slot"],
  ["slotsync_guard_1_0badcafe_1", "is a name of a sidecar's own slots"],
])("only names of slots get into SQL (I13): %s", (name, why) => {
  expect(whyNoName(name)).toEqual(why === null ? null : expect.stringContaining(why));
});

describe("the statements", () => {
  const access = (seen: FlagView, hasSchema = false) => ({ view: seen, roleIdent: '"Side car"', hasSchema });
  const kinds = (sql: string[]) => sql.map((line) => line.split(" ").slice(0, 2).join(" "));
  const of = (on: boolean, seen: FlagView, complete: boolean, hasSchema = false) => {
    const steps = ["app", "other"].map((name) => planFlag(name, on, seen));
    const { sql, commands } = statementsFor(steps, on, access(seen, hasSchema), complete);
    return [...kinds(sql), ...commands.map(({ text }) => text)];
  };
  const CREATE = ["CREATE SCHEMA", "CREATE TABLE", "GRANT USAGE", "GRANT SELECT"];

  test.each<[string, boolean, FlagView, boolean, string[]]>([
    ["the first flag makes the registry", true, view(15, [{}], null), false, [...CREATE, "INSERT INTO"]],
    ["the next one adds to it", true, view(15, [{}], ["app"]), false, ["INSERT INTO"]],
    ["nothing is left to do", true, view(15, [{}], ["app", "other"]), false, []],
    ["for printing it is complete", true, view(15, [{}], ["app", "other"]), true, [...CREATE, "INSERT INTO"]],
    ["unflag without a registry makes an empty one: an answer", false, view(15, [{}], null), false, CREATE],
    ["unflag", false, view(15, [{}], ["app"]), false, ["DELETE FROM"]],
    [
      "17: the server's own",
      true,
      view(17, [{}], null),
      false,
      ['ALTER_REPLICATION_SLOT "app" (FAILOVER true);'],
    ],
    [
      "17: unflag, and what the registry has left",
      false,
      view(17, [{ failover: true }], ["app", "other"]),
      false,
      ["DELETE FROM", 'ALTER_REPLICATION_SLOT "app" (FAILOVER false);'],
    ],
    ["17: no registry is made", false, view(17, [{}], null), false, []],
  ])("%s", (_, on, seen, complete, expected) => {
    expect(of(on, seen, complete)).toEqual(expected);
  });

  test("who may not create schemas does not ask for one that is there", () => {
    expect(of(true, view(15, [{}], null), false, true)).toEqual([...CREATE.slice(1), "INSERT INTO"]);
  });
});

test("what is printed makes the registry with its flags in one transaction: an empty one would have slots dropped (I7)", () => {
  const seen = view(15, [{}], null);
  const { sql } = statementsFor(
    [planFlag("app", true, seen)],
    true,
    { view: seen, roleIdent: "r", hasSchema: false },
    true,
  );
  const printed = inOneTransaction(sql);
  expect(printed.at(0)).toBe("BEGIN;");
  expect(printed.at(-2)).toMatch(/^INSERT INTO/);
  expect(printed.at(-1)).toBe("COMMIT;");
  expect(inOneTransaction([])).toEqual([]);
  expect(inOneTransaction(["DELETE"])).toEqual(["DELETE"]);
});
