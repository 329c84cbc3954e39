import { expect, test } from "vitest";
import { describeFinish, type FinishStep, finishedSlot, planFinish } from "../../../src/domain/finish.ts";
import { PROVEN, type SlotRecord } from "../../../src/domain/journal.ts";
import { noteFinishIntents } from "../../../src/domain/journal-update.ts";
import { formatLsn } from "../../../src/domain/lsn.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import { guard, hold, journalOf, leftAt, lsn, record, slot } from "./build.ts";

const at = (position: number, more: Partial<SlotRecord> = {}) => ({
  primaryConfirmedFlushLsn: lsn(position),
  ...more,
});

const GB = 1024 ** 3;

interface Case {
  claim: string;
  record: SlotRecord;
  here: LogicalSlot[];
  endOfWal?: number;
  step: string;
}

const CASES: Case[] = [
  {
    claim: "1 a slot at its recorded position is kept (I1)",
    record: record("x", "owned", 400),
    here: [slot("x", 400)],
    step: "keep@400",
  },
  {
    claim: "2 a slot behind it is brought to exactly there (I1)",
    record: record("x", "owned", 400, at(450)),
    here: [slot("x", 400)],
    step: "advance@450",
  },
  {
    claim: "3 no slot is moved past the end of WAL (I1)",
    record: record("x", "owned", 400, at(2_000)),
    here: [slot("x", 400)],
    step: "advance@1000",
  },
  {
    claim: "3a one byte past it no record begins: the slot stays at the end (I1, K7)",
    record: record("x", "owned", 1_000, at(1_001)),
    here: [slot("x", 1_000)],
    step: "keep@1000",
  },
  {
    claim: "4 a slot that only the guard holds is made at its exact position (G2b)",
    record: record("x", "seen", null, at(450, { protection: "guarded" })),
    here: [guard(300)],
    step: "materialise@450",
  },
  {
    claim: "5 a guard past the position protects nothing: better no slot than one with a gap (G2, I6)",
    record: record("x", "seen", null, at(450)),
    here: [guard(451)],
    step: "none",
  },
  {
    claim: "6 a hold that is still there serves as well (G3)",
    record: record("x", "seen", null, at(450)),
    here: [guard(500), hold(400)],
    step: "materialise@450",
  },
  {
    claim: "7 an invalidated guard is not copied (I4)",
    record: record("x", "seen", null, at(450)),
    here: [guard(300, { invalidation: "rows_removed" })],
    step: "none",
  },
  {
    claim: "8 another sidecar's guard is not copied (I7)",
    record: record("x", "seen", null, at(450)),
    here: [slot("slotsync_guard_1_deadbeef_1", 300)],
    step: "none",
  },
  {
    claim: "9 a slot ahead of the recorded position is made anew from the guard (I1, I6)",
    record: record("x", "owned", 500, at(450)),
    here: [guard(300), slot("x", 500)],
    step: "materialise@450 after a drop",
  },
  {
    claim: "10 a slot ahead with no guard behind it is taken away (I1, I6)",
    record: record("x", "owned", 500, at(450)),
    here: [slot("x", 500)],
    step: "drop",
  },
  {
    claim: "11 a slot that this node has invalidated is taken away (I3, I4, I6)",
    record: record("x", "owned", 400),
    here: [slot("x", 400, { invalidation: "rows_removed" })],
    step: "drop",
  },
  {
    claim: "12 what the primary had recreated as another slot is taken away (I5, I6)",
    record: record("x", "owned", 400, { plugin: "test_decoding" }),
    here: [slot("x", 400)],
    step: "drop",
  },
  {
    claim: "13 what the old primary had invalidated is not made (I6)",
    record: record("x", "seen", null, at(450, { primaryInvalidation: "wal_removed" })),
    here: [guard(300)],
    step: "none",
  },
  {
    claim: "14 a slot that is being read is left to its subscriber (I7)",
    record: record("x", "owned", 400),
    here: [slot("x", 400, { activePid: 42 })],
    step: "leave in_use",
  },
  {
    claim: "15 a slot that its subscriber has moved on already is left to it (I7)",
    record: record("x", "owned", 400),
    here: [slot("x", 500)],
    step: "leave moved_on",
  },
  {
    claim: "16 a slot that is not ours is left alone (I7)",
    record: record("x", "seen", null, at(450, { protection: "blocked", reason: "name_conflict" })),
    here: [guard(300), slot("x", 500)],
    step: "leave not_ours",
  },
  {
    claim: "17 a creation that was cut off is finished (I10)",
    record: record("x", "creating", 400, at(450)),
    here: [slot("x", 400)],
    step: "advance@450",
  },
  {
    claim: "18 a two_phase slot is not made from a guard (G5)",
    record: record("x", "seen", null, at(450, { twoPhase: true })),
    here: [guard(300)],
    step: "none",
  },
  {
    claim: "19 a slot whose creation had not finished on the old primary is not made",
    record: record("x", "seen", null),
    here: [guard(300)],
    step: "none",
  },
];

test.each(CASES)("$claim", ({ record: entry, here, endOfWal, step }) => {
  const own = leftAt(endOfWal ?? 1_000);
  const [planned] = planFinish({ journal: journalOf([entry]), slots: here, own, serverVersionNum: 160_014 });
  expect(planned && brief(planned)).toBe(step);
});

function brief(step: FinishStep): string {
  switch (step.kind) {
    case "keep":
      return `keep@${step.position}`;
    case "advance":
      return `advance@${step.to}`;
    case "materialise":
      return `materialise@${step.to}${step.dropFirst === null ? "" : " after a drop"}`;
    case "leave":
      return `leave ${step.outcome}`;
    default:
      return step.kind;
  }
}

test("a finishing step that was cut off after any of its steps comes to the same end when run again (I10)", () => {
  const journal = journalOf([
    record("kept", "owned", 400),
    record("behind", "owned", 300, at(450)),
    record("guarded", "seen", null, at(450)),
    record("ahead", "owned", 500, at(450)),
  ]);
  const here = [guard(200), slot("kept", 400), slot("behind", 300), slot("ahead", 500)];
  const after = [guard(200), slot("kept", 400), slot("behind", 300)];
  const again = planFinish({ journal, slots: after, own: leftAt(1_000), serverVersionNum: 160_014 });
  expect(
    planFinish({ journal, slots: here, own: leftAt(1_000), serverVersionNum: 160_014 }).map(brief),
  ).toEqual(["keep@400", "advance@450", "materialise@450", "materialise@450 after a drop"]);
  expect(again.map(brief)).toEqual(["keep@400", "advance@450", "materialise@450", "materialise@450"]);
});

test("a finishing step that was cut off before it dropped a slot knows it as its own when run again (I6, I10)", () => {
  const journal = journalOf([
    record("ahead", "owned", 500, at(450)),
    record("another", "owned", 400, at(450, { plugin: "test_decoding" })),
    record("shared1", "owned", 300, at(GB)),
    record("shared2", "owned", 300, at(GB)),
  ]);
  const here = ["ahead", "another", "shared1", "shared2"].map((name) =>
    slot(name, name === "ahead" ? 500 : name === "another" ? 400 : 300),
  );
  const own = leftAt(GB);
  const steps = planFinish({ journal, slots: [guard(200), ...here], own, serverVersionNum: 160_014 });
  expect(steps.map(brief)).toEqual([
    "materialise@450 after a drop",
    "materialise@450 after a drop",
    `materialise@${GB} after a drop`,
    `materialise@${GB} after a drop`,
  ]);
  const again = noteFinishIntents(journal, steps);
  expect(
    planFinish({ journal: again, slots: [guard(200), ...here], own, serverVersionNum: 160_014 }).map(brief),
  ).toEqual(steps.map(brief));
  // and it knows what it has made
  const made = [
    slot("ahead", 450),
    slot("another", 450, { plugin: "test_decoding" }),
    slot("shared1", GB),
    slot("shared2", GB),
  ];
  expect(
    planFinish({ journal: again, slots: [guard(200), ...made], own, serverVersionNum: 160_014 }).map(brief),
  ).toEqual(["keep@450", "keep@450", `keep@${GB}`, `keep@${GB}`]);
});

test("the gap report names what the subscriber has and this node lacks (I1)", () => {
  const entry = record("x", "owned", 400, at(1_500));
  const step: FinishStep = { kind: "advance", record: entry, restart: lsn(300), to: lsn(1_000) };
  const promoted = { journal: journalOf(), own: leftAt(1_000) };
  const line = finishedSlot(step, promoted, null);
  const odd = record("x", "owned", 1_000, at(1_001));
  expect(
    finishedSlot({ kind: "keep", record: odd, position: lsn(1_000) }, promoted, null).confirmedBeyondEndBytes,
    "no record ends one byte past the end",
  ).toBe(0);
  expect(line).toMatchObject({ outcome: "advanced", positionLsn: "0/3E8", confirmedBeyondEndBytes: 500 });
  const report = {
    finishedAt: 0,
    durationMs: 12,
    endOfWalLsn: "0/3E8",
    timeline: 2,
    historyError: null,
    unseen: null,
    complete: true,
    slots: [line],
  };
  expect(describeFinish(report)).toContain("x (500 bytes of WAL)");
  expect(describeFinish(report)).not.toContain("NOBODY LOOKED");
  expect(describeFinish({ ...report, unseen: { from: 5_000, to: 20_000 } })).toContain(
    "NOBODY LOOKED at the old primary from 1970-01-01T00:00:05.000Z to 1970-01-01T00:00:20.000Z",
  );
  expect(finishedSlot(step, { journal: journalOf(), own: leftAt(1_000) }, "it broke")).toMatchObject({
    outcome: "failed",
    positionLsn: null,
  });
});

test("a slot that its owner had dropped before the promotion is not in the report: nothing was lost with it (K7)", () => {
  const dropped = record("x", "seen", null, { obsolete: true });
  expect(
    planFinish({ journal: journalOf([dropped]), slots: [], own: leftAt(1_000), serverVersionNum: 160_014 }),
  ).toEqual([]);
});

test("what an earlier attempt at the same promotion dropped is told as dropped, with its reason, and not as never protected (K7)", () => {
  const [first] = planFinish({
    journal: journalOf([record("x", "owned", 500, at(450))]),
    slots: [slot("x", 500)],
    own: leftAt(1_000),
    serverVersionNum: 160_014,
  });
  const told = finishedSlot(first as FinishStep, { journal: journalOf(), own: leftAt(1_000) }, null);
  expect(told.outcome).toBe("dropped");
  const [second] = planFinish({
    journal: journalOf([record("x", "seen", null, at(450))]),
    slots: [],
    own: leftAt(1_000),
    serverVersionNum: 160_014,
  });
  expect(
    finishedSlot(second as FinishStep, { journal: journalOf(), own: leftAt(1_000) }, null, { slots: [told] }),
  ).toEqual(told);
  expect(
    finishedSlot(second as FinishStep, { journal: journalOf(), own: leftAt(1_000) }, null, { slots: [] })
      .outcome,
  ).toBe("not_protected");
});

test("a slot whose evidence is incomplete is dropped, or kept where the operator chose so: never called kept, and never in a guard's stead (I6, I19)", () => {
  const seen = record("x", "owned", 500, at(450, { proof: { ...PROVEN, start: false } }));
  const told = (keepUnproven: boolean, more: Partial<SlotRecord> = {}, guards: LogicalSlot[] = []) => {
    const input = { journal: journalOf([{ ...seen, ...more }]), own: leftAt(1_000) };
    const slots = [...guards, slot("x", 400)];
    const [step] = planFinish({ ...input, slots, serverVersionNum: 150_018, keepUnproven });
    return finishedSlot(step as FinishStep, input, null);
  };
  expect(told(false)).toMatchObject({ outcome: "dropped", positionLsn: null });
  expect(told(true)).toMatchObject({ outcome: "kept_unproven", positionLsn: formatLsn(lsn(450)) });
  expect(told(true).detail).toContain("CHANGES MAY BE MISSING");
  const rows = { physical: 700 as Xid, original: 700 as Xid, begins: lsn(0) };
  expect(told(true, { rows }, [guard(300)])).toMatchObject({ outcome: "materialised" });
  // what is known to be unsafe is not kept
  expect(told(true, { primaryInvalidation: "wal_removed" })).toMatchObject({ outcome: "dropped" });
  expect(told(true, { obsolete: true })).toMatchObject({ outcome: "dropped" });
});
