/** Slots that nobody uses and that hold WAL on the standby: what is one, since when, and when it goes (I7). */
import { describe, expect, test } from "vitest";
import {
  describeLeftovers,
  idleSlotsOf,
  type LeftoverRecord,
  leftoversOf,
  noteLeftovers,
} from "../../../src/domain/leftovers.ts";
import { plan } from "../../../src/domain/plan.ts";
import { leftoverProblems } from "../../../src/domain/prerequisites.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import {
  birth,
  guard,
  journalOf,
  lsn,
  memory,
  NOW,
  primaryView,
  record,
  slot,
  standbyView,
} from "./build.ts";

const physical = (name: string, position: number | null, active = false) => ({
  name,
  active,
  restartLsn: position === null ? null : lsn(position),
});

describe("a leftover is", () => {
  const names = (
    here: LogicalSlot[],
    physicalSlots: ReturnType<typeof physical>[] = [],
    journal = journalOf(),
  ) =>
    leftoversOf(primaryView([slot("there", 500)]), standbyView(here, { physicalSlots }), journal).map(
      ({ name, heldBytes }) => `${name} ${heldBytes}`,
    );
  test.each<[string, string[], string[]]>([
    ["a physical slot without a standby", names([], [physical("db2", 400)]), ["db2 600"]],
    ["none that a standby streams from", names([], [physical("db2", 400, true)]), []],
    ["none that never held anything", names([], [physical("db2", null)]), []],
    ["a logical slot that the primary does not have", names([slot("gone", 410)]), ["gone 600"]],
    ["none of a name that the primary has", names([slot("there", 410)]), []],
    ["none in use", names([slot("gone", 410, { activePid: 7 })]), []],
    ["no temporary one", names([slot("gone", 410, { temporary: true })]), []],
    ["none that the server keeps itself", names([slot("gone", 410, { synced: true })]), []],
    ["no guard", names([guard(410)]), []],
    ["no other sidecar's guard either", names([slot("slotsync_guard_1_ffffffff_1", 410)]), []],
    ["none of ours", names([slot("x", 410)], [], journalOf([record("x", "owned", 410)])), []],
    [
      "none that may be one of ours yet",
      names([slot("x", 410)], [], journalOf([record("x", "creating", 0, { births: [birth(500)] })])),
      [],
    ],
    [
      "the largest first",
      names([slot("b", 410)], [physical("a", 500), physical("c", 100)]),
      ["c 900", "b 600", "a 500"],
    ],
  ])("%s", (_, found, expected) => {
    expect(found).toEqual(expected);
  });

  test("not told of logical slots while the primary does not answer", () => {
    const here = standbyView([slot("gone", 410)], { physicalSlots: [physical("db2", 400)] });
    for (const primary of [null, primaryView([], { remembered: true })])
      expect(leftoversOf(primary, here, journalOf()).map(({ name }) => name)).toEqual(["db2"]);
  });
});

test("the sentence says how much each holds, and how to release it", () => {
  const held = (name: string, heldBytes: number) =>
    ({ name, kind: "physical", restartLsn: lsn(1), heldBytes }) as const;
  expect(describeLeftovers([held("a", 48 * 1024 * 1024), held("b", 7)])).toMatch(
    /^2 slots .*"a" \(physical, 48\.0 MB\), "b" \(physical, 7 bytes\).*slotsync release/,
  );
  expect(describeLeftovers(Array.from({ length: 7 }, (_, index) => held(`s${index}`, 1)))).toContain(
    "and 2 more",
  );
});

test("one that somebody has used since begins anew", () => {
  const found = [{ name: "a", kind: "physical" as const, restartLsn: lsn(5), heldBytes: 1 }];
  const first = noteLeftovers([], found, 1_000);
  expect(first).toEqual([{ name: "a", restartLsn: lsn(5), since: 1_000, kept: false }]);
  expect(noteLeftovers(first, found, 2_000)).toEqual(first);
  const elsewhere = [{ name: "a", restartLsn: lsn(4), since: 1_000, kept: false }];
  expect(noteLeftovers(elsewhere, found, 2_000)[0]?.since).toBe(2_000);
  expect(noteLeftovers(first, [], 2_000)).toEqual([]);
});

describe("a slot that somebody moves though nobody streams from it, as Patroni 4 does with its members' on every standby", () => {
  const here = (position: number) => standbyView([], { physicalSlots: [physical("db3", position)] });
  const told = (position: number, leftovers: readonly LeftoverRecord[]) =>
    leftoverProblems(primaryView([]), here(position), journalOf([], { leftovers: [...leftovers] }));
  const look = (known: readonly LeftoverRecord[], position: number, now: number) =>
    noteLeftovers(known, idleSlotsOf(primaryView([]), here(position), journalOf()), now);

  test("is left over no more from the look on that sees it moved, and while it moves (K7)", () => {
    const first = look([], 400, NOW);
    expect(told(400, first)).toHaveLength(1);
    expect(told(410, first)).toEqual([]);
    const second = look(first, 410, NOW + 10_000);
    expect(second).toMatchObject([{ kept: true }]);
    expect(told(410, second)).toEqual([]);
    expect(told(410, look(second, 410, NOW + 10_000 + 899_999))).toEqual([]);
  });

  test("is left over once it has stood still for a quarter of an hour: its keeper has gone", () => {
    const moved = look(look([], 400, NOW), 410, NOW + 10_000);
    expect(told(410, look(moved, 410, NOW + 10_000 + 900_000))).toHaveLength(1);
  });

  test("is none when it holds nothing", () => {
    expect(told(1_000, look([], 1_000, NOW))).toEqual([]);
  });
});

test("a leftover that holds more WAL in each look is told in other figures and is no news; another one is (K7)", () => {
  const gist = (replayLsn: number, ...names: string[]) => {
    const physicalSlots = names.map((name) => physical(name, 400));
    const [problem] = leftoverProblems(
      primaryView([]),
      standbyView([], { physicalSlots, replayLsn: lsn(replayLsn) }),
      journalOf(),
    );
    return problem;
  };
  expect(gist(1_000, "db2")?.message).not.toBe(gist(2_000, "db2")?.message);
  expect(gist(1_000, "db2")?.gist).toBe(gist(2_000, "db2")?.gist);
  expect(gist(1_000, "db2")?.gist).not.toBe(gist(1_000, "db2", "db3")?.gist);
});

describe("it is released by the plan", () => {
  const releases = (more: {
    since?: number;
    at?: number;
    after?: number | null;
    active?: boolean;
    timeline?: number;
    failing?: boolean;
    kept?: boolean;
  }) => {
    const known: LeftoverRecord[] = [
      {
        name: "db2",
        restartLsn: lsn(more.at ?? 400),
        since: NOW - (more.since ?? 60_000),
        kept: more.kept ?? false,
      },
    ];
    const { actions } = plan({
      primary: primaryView([], { timeline: more.timeline ?? 1 }),
      standby: standbyView([guard(1_000)], { physicalSlots: [physical("db2", 400, more.active)] }),
      chosen: [],
      journal: journalOf([], { leftovers: known }),
      policy: {
        guardDatabases: "auto",
        duty: 0.1,
        provision: "auto",
        restarts: false,
        onConflict: "adopt",
        releaseAfterMs: more.after === undefined ? 60_000 : more.after,
      },
      memory: memory(
        more.failing
          ? {
              backoff: new Map([
                ["db2", { reason: "statement_failed", detail: "", retryAt: NOW + 1, failures: 1 }],
              ]),
            }
          : {},
      ),
    });
    return actions.flatMap((action) => (action.kind === "release" ? [action.slot] : []));
  };
  test.each<[string, Parameters<typeof releases>[0], string[]]>([
    ["once it has been there for that long", {}, ["db2"]],
    ["not before", { since: 59_999 }, []],
    ["never, unless the operator says so", { after: null }, []],
    ["not while it is in use", { active: true }, []],
    ["not when it has been used since", { at: 399 }, []],
    ["not while somebody keeps moving it", { kept: true }, []],
    ["not right after a switchover", { timeline: 2 }, []],
    ["not while a failed attempt rests", { failing: true }, []],
  ])("%s", (_, more, expected) => {
    expect(releases(more)).toEqual(expected);
  });
});
