import { expect, test } from "vitest";
import { cascadeProblem, seenThrough, throughUpstream } from "../../../src/domain/cascade.ts";
import type { PhysicalSlot, PrimaryView, UpstreamView } from "../../../src/domain/observation.ts";
import { primaryProblems } from "../../../src/domain/prerequisites.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import { journalOf, primaryView, standbyView } from "./build.ts";

const slotAt = (name: string, xid: number | null, active = true): PhysicalSlot => ({
  name,
  active,
  catalogXmin: xid as Xid | null,
});

/** The standby between, whose own slot on the primary is "middle". */
const between = (more: Partial<UpstreamView> = {}): UpstreamView => ({
  target: "m:1/x as u",
  systemIdentifier: "1",
  hotStandbyFeedback: true,
  primarySlotName: "middle",
  physicalSlot: slotAt("standby1", 700),
  feedbackSession: "m",
  ...more,
});

/** What is held for our standby when the slot on the primary and the one between stand so. */
const held = (far: PhysicalSlot | null, upstream: Partial<UpstreamView> = {}) =>
  throughUpstream(primaryView([], { physicalSlot: far }), between(upstream)).physicalSlot;

test.each<[string, number | null, number | null, number | null]>([
  ["the younger of both counts", 700, 650, 700],
  ["… on either hop", 650, 700, 700],
  ["… across the wraparound", 4_294_967_290, 5, 5],
  ["… either way", 5, 4_294_967_290, 5],
  ["nothing on the primary: nothing", null, 700, null],
  ["nothing between: nothing", 700, null, null],
])("rows are held as far as both hops hold them (I4): %s", (_, far, near, expected) => {
  expect(held(slotAt("middle", far), { physicalSlot: slotAt("standby1", near) })?.catalogXmin).toBe(expected);
});

test("feedback that the one between does not pass on holds nothing, whatever its slot still says (I4)", () => {
  expect(held(slotAt("middle", 700), { hotStandbyFeedback: false })?.catalogXmin).toBeNull();
});

test("a chain is in use only when both its slots are, and is none without one of them (I4)", () => {
  expect(held(slotAt("middle", 700))).toEqual(slotAt("middle", 700));
  expect(held(slotAt("middle", 700, false))?.active).toBe(false);
  expect(held(slotAt("middle", 700), { physicalSlot: slotAt("standby1", 700, false) })?.active).toBe(false);
  expect(held(null)).toBeNull();
  expect(held(slotAt("middle", 700), { physicalSlot: null })).toBeNull();
});

const chain = (upstream: Partial<UpstreamView> = {}) =>
  throughUpstream(primaryView([], { physicalSlot: slotAt("middle", 700) }), between(upstream));

test("what interrupts the feedback of either hop makes it begin anew (I4)", () => {
  const session = (mine: string, theirs: string) =>
    seenThrough(chain({ feedbackSession: theirs }), standbyView([], { feedbackSession: mine }), true).standby
      .feedbackSession;
  const sessions = [session("a", "b"), session("a", "c"), session("d", "b")];
  expect(new Set(sessions).size).toBe(3);
});

test("what was asked holds nothing for a standby that may stream from another server by now (I4)", () => {
  const seen = (sameReceiver: boolean) =>
    seenThrough(chain(), standbyView([]), sameReceiver).primary.physicalSlot;
  expect(seen(true)).toEqual(slotAt("middle", 700));
  expect(seen(false)).toEqual(slotAt("middle", null));
});

test("without a cascade both are as they were seen", () => {
  const [primary, standby] = [primaryView([]), standbyView([])];
  expect(seenThrough(primary, standby, false)).toEqual({ primary, standby });
  const unknown = { ...primary, upstream: { target: "m:1", why: "refused" } };
  expect(seenThrough(unknown, standby, false)).toEqual({ primary: unknown, standby });
});

const CASES: [string, Partial<UpstreamView>, Partial<PrimaryView>, string, RegExp][] = [
  ["another cluster", { systemIdentifier: "2" }, {}, "system_identifier_differs", /the primary has 1/],
  [
    "no slot for us there",
    { physicalSlot: null },
    {},
    "cascade_unproven",
    /m:1.*pg_create_physical_replication_slot\('standby1'\)/,
  ],
  [
    "our slot there is not in use",
    { physicalSlot: slotAt("standby1", 700, false) },
    {},
    "cascade_unproven",
    /"standby1" is not active there/,
  ],
  [
    "its feedback is off",
    { hotStandbyFeedback: false },
    {},
    "cascade_unproven",
    /hot_standby_feedback = on there/,
  ],
  ["its settings are hidden", { primarySlotName: null }, {}, "cascade_unproven", /pg_monitor/],
  ["it streams without a slot", { primarySlotName: "" }, {}, "cascade_unproven", /without a physical slot/],
  [
    "its slot is not on the primary: one more between",
    {},
    { physicalSlot: null },
    "cascade_unproven",
    /"middle" is missing or not active.*a longer chain is not supported/,
  ],
  [
    "its slot there is not in use",
    {},
    { physicalSlot: slotAt("middle", 700, false) },
    "cascade_unproven",
    /"middle"/,
  ],
];

test.each(CASES)(
  "a chain that cannot be proven stops all, with one message: %s",
  (_, upstream, more, code, says) => {
    const seen = throughUpstream(
      primaryView([], { physicalSlot: slotAt("middle", 700), ...more }),
      between(upstream),
    );
    expect(primaryProblems(seen, standbyView([]), journalOf())).toEqual([
      { code, severity: "stop", message: expect.stringMatching(says) },
    ]);
  },
);

test("a chain is none while this standby does not stream", () => {
  const seen = throughUpstream(primaryView([], { physicalSlot: slotAt("middle", 700) }), between());
  expect(primaryProblems(seen, standbyView([], { streaming: false }), journalOf())).toMatchObject([
    { code: "cascade_unproven", message: expect.stringContaining("not streaming") },
  ]);
});

test("a chain with both slots in use has no problem", () => {
  const seen = throughUpstream(primaryView([], { physicalSlot: slotAt("middle", 700) }), between());
  expect(primaryProblems(seen, standbyView([]), journalOf())).toEqual([]);
});

test("a server between that cannot be asked is told with the reason", () => {
  const unknown = { target: "m:1", why: "password authentication failed" };
  expect(cascadeProblem(primaryView([]), standbyView([]), unknown)).toMatchObject({
    code: "cascade_unproven",
    severity: "stop",
    message: expect.stringMatching(/m:1, .*password authentication failed/),
  });
});
