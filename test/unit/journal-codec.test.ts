import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { emptyJournal, type JournalState, type SlotRecord } from "../../src/domain/journal.ts";
import type { Lsn } from "../../src/domain/lsn.ts";
import type { Xid } from "../../src/domain/xid.ts";
import { decodeJournal, encodeJournal } from "../../src/journal/codec.ts";
import { JournalDamagedError, JournalVersionError } from "../../src/journal/errors.ts";

const PATH = "state/journal.json";

const lsn = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }) as fc.Arbitrary<Lsn>;
const orNull = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null });
const time = fc.nat({ max: 8_640_000_000_000 });
const oid = fc.nat({ max: 0xffff_ffff });
const text = fc.string({ unit: "binary" });
const slotName = fc.oneof(
  fc.stringMatching(/^[a-z0-9_]{1,63}$/),
  fc.constantFrom("__proto__", "constructor", "1", "007", "x".repeat(63)),
);
const ownName = fc.stringMatching(/^slotsync_[a-z0-9_]{1,20}$/);
const reason = fc.constantFrom(
  "wal_not_flushed",
  "wal_or_rows_removed",
  "no_consistent_snapshot",
  "slot_invalidated",
  "name_conflict",
  "catalog_rows_unproven",
  "database_missing",
  "plugin_missing",
  "plugin_unproven",
  "prepared_transactions_pending",
  "permission_denied",
  "too_many_slots",
  "slot_in_use",
  "idle_timeout",
  "plugin_refused",
  "statement_failed",
  "absent_on_primary",
  "not_recorded",
  "restart_pending",
);
const identity = fc.record(
  { databaseOid: oid, plugin: text, twoPhase: fc.boolean() },
  { noNullPrototype: true },
);
const xid = fc.integer({ min: 0, max: 0xffff_ffff }).map((value) => value as Xid);
const staged = fc.record(
  {
    databaseOid: oid,
    plugin: text,
    twoPhase: fc.boolean(),
    restartLsn: lsn,
    confirmedFlushLsn: lsn,
    snapshot: fc.constantFrom("kept", "absent", "unusable"),
    pin: orNull(text),
    at: time,
    loadedBy: orNull(lsn),
  },
  { noNullPrototype: true },
);
const provision = {
  staged: fc.array(staged, { maxLength: 4 }),
  origin: orNull(staged),
  proof: fc.record(
    { start: fc.boolean(), wal: fc.boolean(), mappings: fc.boolean() },
    { noNullPrototype: true },
  ),
  beginning: fc.record({ seen: orNull(lsn), settled: orNull(lsn) }, { noNullPrototype: true }),
};
const slotRecord: fc.Arbitrary<SlotRecord> = fc.record(
  {
    ...provision,
    name: slotName,
    database: text,
    chosenBy: fc.array(text, { maxLength: 3 }),
    databaseOid: oid,
    plugin: text,
    twoPhase: fc.boolean(),
    state: fc.constantFrom("seen", "creating", "owned"),
    failover: fc.boolean(),
    served: fc.boolean(),
    twoPhaseXid: orNull(xid),
    ours: orNull(identity),
    births: fc.array(
      fc.record(
        { databaseOid: oid, plugin: text, at: lsn, settled: fc.boolean(), since: time },
        { noNullPrototype: true },
      ),
      { maxLength: 4 },
    ),
    maxTarget: orNull(lsn),
    bornAt: orNull(lsn),
    dropping: fc.boolean(),
    primaryConfirmedFlushLsn: orNull(lsn),
    primaryRestartLsn: orNull(lsn),
    rows: orNull(fc.record({ physical: xid, original: xid, begins: lsn }, { noNullPrototype: true })),
    primaryInvalidation: orNull(text),
    seenAt: time,
    absentSince: orNull(time),
    timeline: orNull(oid),
    commonLsn: orNull(lsn),
    formerly: fc.array(fc.record({ timeline: oid, lsn }, { noNullPrototype: true }), { maxLength: 3 }),
    copying: fc.boolean(),
    obsolete: fc.boolean(),
    protection: fc.constantFrom("synced", "guarded", "waiting", "blocked"),
    reason: orNull(reason),
    detail: orNull(text),
    failure: orNull(fc.record({ reason, detail: text }, { noNullPrototype: true })),
    since: time,
  },
  { noNullPrototype: true },
);
const lsnText = fc.constantFrom("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF");
const finish = fc.record(
  {
    finishedAt: time,
    durationMs: fc.nat(),
    timeline: orNull(oid),
    endOfWalLsn: orNull(lsnText),
    historyError: orNull(text),
    unseen: orNull(fc.record({ from: time, to: time }, { noNullPrototype: true })),
    complete: fc.boolean(),
    slots: fc.array(
      fc.record(
        {
          name: text,
          database: text,
          plugin: text,
          outcome: fc.constantFrom(
            "kept",
            "advanced",
            "materialised",
            "kept_unproven",
            "dropped",
            "in_use",
            "moved_on",
            "not_ours",
            "not_protected",
            "failed",
          ),
          detail: orNull(text),
          lastSeenLsn: orNull(lsnText),
          lastSeenAt: time,
          positionLsn: orNull(lsnText),
          confirmedBeyondEndBytes: fc.nat(),
          timeline: orNull(oid),
          endOfWalLsn: orNull(lsnText),
          certain: fc.boolean(),
          repair: orNull(text),
        },
        { noNullPrototype: true },
      ),
      { maxLength: 4 },
    ),
  },
  { noNullPrototype: true },
);
const guards = fc
  .uniqueArray(
    fc.record(
      {
        ...provision,
        name: ownName,
        database: text,
        databaseOid: oid,
        state: fc.constantFrom("creating", "owned"),
        maxTarget: orNull(lsn),
      },
      { noNullPrototype: true },
    ),
    { selector: (guard) => guard.databaseOid, maxLength: 4 },
  )
  .map((list) => Object.fromEntries(list.map((guard) => [guard.databaseOid, guard])));
const history = fc.array(fc.record({ timeline: oid, until: lsn }, { noNullPrototype: true }), {
  maxLength: 3,
});
const journal: fc.Arbitrary<JournalState> = fc.record(
  {
    instanceId: fc.stringMatching(/^[0-9a-f]{8}$/),
    systemIdentifier: orNull(fc.stringMatching(/^\d{1,20}$/)),
    phase: fc.constantFrom("standby", "promoting", "primary"),
    primaryTimeline: orNull(oid),
    standbyTimeline: orNull(oid),
    timelineSince: time,
    observedAt: time,
    standbyFlushedLsn: orNull(lsn),
    feedbackSince: orNull(lsn),
    feedbackSession: orNull(text),
    feedbackWalsender: orNull(fc.nat()),
    quietUntil: time,
    quietLsn: orNull(lsn),
    haltedAt: orNull(time),
    alive: orNull(
      fc.record(
        {
          at: time,
          lsn: orNull(lsn),
          how: fc.constantFrom("wal", "message", "refusal", "looked", "unwatched"),
        },
        { noNullPrototype: true },
      ),
    ),
    relayed: fc.boolean(),
    standbyStartedS: orNull(time),
    clock: orNull(fc.record({ bootId: text, bootedAt: time }, { noNullPrototype: true })),
    primaryLostAt: orNull(time),
    life: orNull(
      fc.record(
        {
          timeline: oid,
          history,
          unmoved: fc.array(
            fc.record(
              { name: text, databaseOid: oid, plugin: text, restartLsn: lsn },
              { noNullPrototype: true },
            ),
            { maxLength: 3 },
          ),
        },
        { noNullPrototype: true },
      ),
    ),
    history: orNull(fc.record({ timeline: oid, forks: history }, { noNullPrototype: true })),
    guardSerial: fc.nat(),
    guards,
    lowGuards: guards,
    slots: fc
      .uniqueArray(slotRecord, { selector: (slot) => slot.name, maxLength: 6 })
      .map((slots) => new Map(slots.map((slot) => [slot.name, slot]))),
    plugins: fc.array(text, { maxLength: 3 }),
    undecided: orNull(fc.nat()),
    leftovers: fc.array(
      fc.record({ name: text, restartLsn: lsn, since: time, kept: fc.boolean() }, { noNullPrototype: true }),
      {
        maxLength: 3,
      },
    ),
    restart: orNull(
      fc.record(
        {
          at: time,
          names: fc.array(text, { maxLength: 3 }),
          outcome: fc.constantFrom("running", "done", "failed", "not_started"),
          detail: orNull(text),
          failures: fc.nat(),
          retryAt: orNull(time),
          window: orNull(time),
        },
        { noNullPrototype: true },
      ),
    ),
    problems: fc.array(text, { maxLength: 3 }),
    finish: orNull(finish),
  },
  { noNullPrototype: true },
) as fc.Arbitrary<JournalState>;

const someSlot: SlotRecord = {
  name: "orders",
  database: "shop",
  chosenBy: ["registry"],
  databaseOid: 16_384,
  plugin: "pgoutput",
  twoPhase: false,
  state: "owned",
  failover: false,
  served: false,
  twoPhaseXid: null,
  ours: { databaseOid: 16_384, plugin: "pgoutput", twoPhase: false },
  births: [],
  staged: [],
  origin: null,
  proof: { start: true, wal: true, mappings: true },
  beginning: { seen: null, settled: 0x16_b3600000n as Lsn },
  maxTarget: 0x16_b374d848n as Lsn,
  bornAt: null,
  dropping: false,
  primaryConfirmedFlushLsn: 0x16_b374d848n as Lsn,
  primaryRestartLsn: 0x16_b3700000n as Lsn,
  rows: null,
  primaryInvalidation: null,
  seenAt: 1_790_000_000_000,
  absentSince: null,
  timeline: null,
  commonLsn: null,
  formerly: [],
  copying: false,
  obsolete: false,
  protection: "synced",
  reason: null,
  detail: null,
  failure: null,
  since: 1_790_000_000_000,
};

const someGuard = {
  name: "slotsync_guard_16384_0123abcd_1",
  database: "shop",
  databaseOid: 16_384,
  state: "owned",
  maxTarget: null,
};

function small(): JournalState {
  return { ...emptyJournal("0123abcd"), slots: new Map([["orders", someSlot]]) };
}

/** A document that is sealed as ours are, around a body and a version of the test's choosing. */
function sealed(body: unknown, version: number | string = 1): string {
  const bodyText = JSON.stringify(body);
  const sha256 = createHash("sha256").update(`pg-slotsync journal ${version}\n${bodyText}`).digest("hex");
  return `{"format":"pg-slotsync journal","version":${version},"sha256":"${sha256}","body":${bodyText}}\n`;
}

function bodyOf(state: JournalState): Record<string, unknown> {
  return JSON.parse(encodeJournal(state)).body;
}

describe("what was written is read back", () => {
  test("every state comes back as it was, whatever the names and texts in it (I10, I13)", () => {
    fc.assert(
      fc.property(journal, (state) => {
        const read = decodeJournal(encodeJournal(state), PATH);
        expect(read).toEqual(state);
        expect([...read.slots.keys()]).toEqual([...state.slots.keys()]);
      }),
      { numRuns: 300 },
    );
  });

  test("a slot called __proto__ is a record like any other (I13)", () => {
    const record = { ...someSlot, name: "__proto__" };
    const slots = new Map([["__proto__", record]]);
    const read = decodeJournal(encodeJournal({ ...small(), slots }), PATH);
    expect(read.slots.get("__proto__")).toEqual(record);
  });

  test("a primary that shows an impossible slot name does not cost the journal (I9, I13)", () => {
    const slots = new Map([["../x", { ...someSlot, name: "../x", state: "seen" as const }]]);
    expect(decodeJournal(encodeJournal({ ...small(), slots }), PATH).slots).toEqual(slots);
  });

  test("positions stand in the file as PostgreSQL writes them", () => {
    expect(encodeJournal(small())).toContain('"maxTarget":"16/B374D848"');
  });

  test("a number that JSON cannot hold is refused instead of making a file that does not load", () => {
    const slots = new Map([["orders", { ...someSlot, seenAt: Number.NaN }]]);
    expect(() => encodeJournal({ ...small(), slots })).toThrow(RangeError);
  });
});

describe("a damaged journal is told from a sound one (I10)", () => {
  test("cut short at any byte", () => {
    const whole = Buffer.from(encodeJournal(small()));
    for (let length = 0; length < whole.length; length += 1)
      expect(() => decodeJournal(whole.toString("utf8", 0, length), PATH)).toThrow(JournalDamagedError);
  });

  test("any single bit flipped", () => {
    const whole = Buffer.from(encodeJournal(small()));
    for (let bit = 0; bit < whole.length * 8; bit += 1) {
      const flipped = Buffer.from(whole);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      // the version's own bits as well: a flipped 1 must not pass for a newer version
      expect(() => decodeJournal(flipped.toString("utf8"), PATH)).toThrow(JournalDamagedError);
    }
  });

  test("bytes appended, zeroed or replaced", () => {
    const whole = encodeJournal(small());
    expect(() => decodeJournal(`${whole}x`, PATH)).toThrow(JournalDamagedError);
    expect(() => decodeJournal(whole + whole, PATH)).toThrow(JournalDamagedError);
    expect(() => decodeJournal("\0".repeat(whole.length), PATH)).toThrow(JournalDamagedError);
    fc.assert(
      fc.property(fc.nat(), fc.string({ minLength: 1 }), (at, garbage) => {
        const start = at % whole.length;
        const spoilt = whole.slice(0, start) + garbage + whole.slice(start + garbage.length);
        if (spoilt !== whole) expect(() => decodeJournal(spoilt, PATH)).toThrow(JournalDamagedError);
      }),
    );
  });

  test("any JSON and any text that is not a journal", () => {
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string()), (foreign) => {
        expect(() => decodeJournal(foreign, PATH)).toThrow(JournalDamagedError);
      }),
    );
    expect(() => decodeJournal('{"name":"pg-slotsync","version":"0.1.0"}', PATH)).toThrow(
      'the journal state/journal.json is damaged: it is JSON, and not a journal (no format "pg-slotsync journal")',
    );
  });

  test("changed by hand, though its JSON says the same", () => {
    const pretty = JSON.stringify(JSON.parse(encodeJournal(small())), null, 2);
    expect(() => decodeJournal(pretty, PATH)).toThrow("edited by hand?");
  });

  test("a wrong checksum is named", () => {
    const spoilt = encodeJournal(small()).replace("16/B374D848", "17/B374D848");
    expect(() => decodeJournal(spoilt, PATH)).toThrow("its checksum does not match its content");
  });

  const cases: [string, (body: Record<string, unknown>) => void, string][] = [
    ["an unknown field", (body) => Object.assign(body, { extra: 1 }), "extra"],
    ["a missing field", (body) => Reflect.deleteProperty(body, "guardSerial"), "guardSerial"],
    [
      "a position that is none",
      (body) => patch(body, { maxTarget: "16-0" }),
      "slots.0.maxTarget: not an LSN",
    ],
    ["a state of no meaning", (body) => patch(body, { state: "mine" }), "slots.0.state"],
    ["a slot of ours with an impossible name", (body) => patch(body, { name: "../x" }), "slots.0"],
    ["a slot twice", (body) => twice(body, "slots"), "a record twice"],
    [
      "an instance id of another form",
      (body) => Object.assign(body, { instanceId: "'; drop" }),
      "instanceId",
    ],
    [
      "a guard whose name is not of our own slots",
      (body) => Object.assign(body, { guards: [{ ...someGuard, name: "orders" }] }),
      "guards.0.name",
    ],
    [
      "a birth at a position that is none",
      (body) => patch(body, { births: [{ databaseOid: 5, plugin: "pgoutput", at: "x", since: 0 }] }),
      "slots.0.births.0.at",
    ],
    ["a negative serial", (body) => Object.assign(body, { guardSerial: -1 }), "guardSerial"],
  ];
  test.each(cases)("%s, though the checksum is right", (_, spoil, message) => {
    const body = bodyOf(small());
    expect(() => decodeJournal(sealed(body), PATH)).not.toThrow();
    spoil(body);
    expect(() => decodeJournal(sealed(body), PATH)).toThrow(JournalDamagedError);
    expect(() => decodeJournal(sealed(body), PATH)).toThrow(message);
  });

  test.each([0, -1, 1.5])("version %s, which there never was", (version) => {
    expect(() => decodeJournal(sealed({}, version), PATH)).toThrow(JournalDamagedError);
  });
});

test("a journal of version 1 says nothing of rewrite mappings: what was made by SQL lacks none, what came by its file is to be proven (I16)", () => {
  const ofOld = (record: Record<string, unknown>) => {
    const proof = { start: true, wal: true, rows: true };
    return { ...record, proof };
  };
  const body = bodyOf(small());
  const [slot = {}] = body.slots as Record<string, unknown>[];
  const origin = {
    ...{ databaseOid: 5, plugin: "pgoutput", twoPhase: false, restartLsn: "0/1", confirmedFlushLsn: "0/2" },
    ...{ snapshot: "kept", pin: null, at: 0, commonUntil: null },
  };
  const guard = { ...someGuard, staged: [], origin };
  const old = {
    ...body,
    slots: [ofOld(slot), ofOld({ ...slot, name: "loaded", origin })],
    guards: [ofOld(guard)],
    lowGuards: [ofOld({ ...guard, origin: null })],
  };
  const read = decodeJournal(sealed(old, 1), PATH);
  expect(read.slots.get("orders")?.proof.mappings).toBe(true);
  expect(read.slots.get("loaded")).toMatchObject({ proof: { mappings: false }, origin: { loadedBy: null } });
  expect(read.guards[16_384]?.proof.mappings).toBe(false);
  expect(read.lowGuards[16_384]?.proof.mappings).toBe(true);
});

describe("a newer version's journal is left for that version", () => {
  test.each([3, 10, 4000])("version %s", (version) => {
    expect(() => decodeJournal(sealed({ anything: true }, version), PATH)).toThrow(JournalVersionError);
    expect(() => decodeJournal(sealed({}, version), PATH)).toThrow(`journal version ${version}`);
  });

  test("also when all but its first two fields is new", () => {
    const text = JSON.stringify({ format: "pg-slotsync journal", version: 3, chunks: [] }, null, 1);
    expect(() => decodeJournal(text, PATH)).toThrow(JournalVersionError);
  });
});

function patch(body: Record<string, unknown>, change: object): void {
  Object.assign((body.slots as object[])[0] as object, change);
}

function twice(body: Record<string, unknown>, key: string): void {
  const records = body[key] as unknown[];
  records.push(records[0]);
}
