import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Lsn } from "../../src/domain/lsn.ts";
import type { Xid } from "../../src/domain/xid.ts";
import { crc32c } from "../../src/pg/crc32c.ts";
import {
  parseSlotState,
  rewriteSlotState,
  type SlotState,
  SlotStateError,
} from "../../src/pg/slot-state-file.ts";

/** Bytes in hexadecimal, where `60*0` stands for 60 zero bytes. */
function unpack(text: string): Buffer {
  const parts = text.split(" ").map((part) => {
    const zeros = /^(\d+)\*0$/.exec(part)?.[1];
    return zeros ? Buffer.alloc(Number(zeros)) : Buffer.from(part, "hex");
  });
  return Buffer.concat(parts);
}

/** As a file of an earlier and smaller version has it. */
const NOTHING = {
  databaseOid: 0,
  persistency: "persistent",
  xmin: null,
  catalogXmin: null,
  restartLsn: 0n as Lsn,
  confirmedFlushLsn: 0n as Lsn,
  invalidated: false,
  twoPhase: false,
  twoPhaseAt: null,
  plugin: "",
  synced: false,
  failover: false,
} satisfies Omit<SlotState, "name">;

const LOGICAL = { ...NOTHING, name: "sub1", plugin: "test_decoding" } as const;

interface Fixture {
  major: number;
  what: string;
  packed: string;
  /** what pg_replication_slots showed on that server; positions and ids are compared as numbers */
  state: SlotState;
}

/** Files that servers of these majors wrote (11.22, 12.22, 13.23, 14.23, 15.18, 16.14, 17.10, 18.4). */
const FIXTURES: readonly Fixture[] = [
  {
    major: 11,
    what: "a logical slot",
    packed:
      "a11c05014331ac1902 3*0 a0 3*0 73756231 60*0 2233 10*0 39020000a8d36601 4*0 a0686801 4*0 746573745f6465636f64696e67 51*0",
    state: {
      ...LOGICAL,
      databaseOid: 13090,
      catalogXmin: 569 as Xid,
      restartLsn: 0x166d3a8n as Lsn,
      confirmedFlushLsn: 0x16868a0n as Lsn,
    },
  },
  {
    major: 12,
    what: "a physical slot",
    packed: "a11c05019e14ed4f02 3*0 a0 3*0 7374616e64627931 72*0 90306401 76*0",
    state: { ...NOTHING, name: "standby1", restartLsn: 0x1643090n as Lsn },
  },
  {
    major: 13,
    what: "a logical slot",
    packed:
      "a11c0501b042dd7902 3*0 a8 3*0 73756231 60*0 4734 10*0 e6010000e0685d01 12*0 08b35e01 4*0 746573745f6465636f64696e67 51*0",
    state: {
      ...LOGICAL,
      databaseOid: 13383,
      catalogXmin: 486 as Xid,
      restartLsn: 0x15d68e0n as Lsn,
      confirmedFlushLsn: 0x15eb308n as Lsn,
    },
  },
  {
    major: 13,
    what: "a slot that lost its WAL",
    packed:
      "a11c0501e13c256202 3*0 a8 3*0 73756231 60*0 4734 10*0 e601 10*0 e0685d01 4*0 08b35e01 4*0 746573745f6465636f64696e67 51*0",
    state: {
      ...LOGICAL,
      databaseOid: 13383,
      catalogXmin: 486 as Xid,
      confirmedFlushLsn: 0x15eb308n as Lsn,
      invalidated: true,
    },
  },
  {
    major: 14,
    what: "a two_phase slot",
    packed:
      "a11c050105a76ea202 3*0 b8 3*0 73756231 60*0 7f35 10*0 de020000d07f7001 12*0 481f7201 4*0 20807001 4*0 01746573745f6465636f64696e67 58*0",
    state: {
      ...LOGICAL,
      databaseOid: 13695,
      catalogXmin: 734 as Xid,
      restartLsn: 0x1707fd0n as Lsn,
      confirmedFlushLsn: 0x1721f48n as Lsn,
      twoPhase: true,
      twoPhaseAt: 0x1708020n as Lsn,
    },
  },
  {
    major: 15,
    what: "a two_phase slot that lost its WAL",
    packed:
      "a11c05018e42a1b102 3*0 b8 3*0 73756231 60*0 05 11*0 d502 10*0 90af5001 4*0 307c5201 4*0 c8af5001 4*0 01746573745f6465636f64696e67 58*0",
    state: {
      ...LOGICAL,
      databaseOid: 5,
      catalogXmin: 725 as Xid,
      confirmedFlushLsn: 0x1527c30n as Lsn,
      invalidated: true,
      twoPhase: true,
      twoPhaseAt: 0x150afc8n as Lsn,
    },
  },
  {
    major: 16,
    what: "a slot that lost its WAL",
    packed:
      "a11c0501401635a303 3*0 b8 3*0 73756231 60*0 05 11*0 db02 10*0 01 7*0 10325101 4*0 98574f01 4*0 01746573745f6465636f64696e67 58*0",
    state: {
      ...LOGICAL,
      databaseOid: 5,
      catalogXmin: 731 as Xid,
      confirmedFlushLsn: 0x1513210n as Lsn,
      invalidated: true,
      twoPhase: true,
      twoPhaseAt: 0x14f5798n as Lsn,
    },
  },
  {
    major: 17,
    what: "a physical slot that was never used",
    packed: "a11c050138f06fca05 3*0 b8 3*0 756e75736564 178*0",
    state: { ...NOTHING, name: "unused" },
  },
  {
    major: 18,
    what: "a failover slot",
    packed:
      "a11c0501158113f005 3*0 b8 3*0 73756231 60*0 05 11*0 f102000020427601 12*0 a8387801 4*0 58427601 4*0 01746573745f6465636f64696e67 52*0 01 5*0",
    state: {
      ...LOGICAL,
      databaseOid: 5,
      catalogXmin: 753 as Xid,
      restartLsn: 0x1764220n as Lsn,
      confirmedFlushLsn: 0x17838a8n as Lsn,
      twoPhase: true,
      twoPhaseAt: 0x1764258n as Lsn,
      failover: true,
    },
  },
];

const MAJORS = [11, 12, 13, 14, 15, 16, 17, 18];

function fixture(major: number): { bytes: Buffer; state: SlotState } {
  const found = FIXTURES.find((each) => each.major === major);
  if (!found) throw new Error(`no file of ${major} here`);
  return { bytes: unpack(found.packed), state: found.state };
}

/** A copy with this change, and the checksum made to fit: damage that only the checks behind it can see. */
function resealed(bytes: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(bytes);
  change(copy);
  copy.writeUInt32LE(crc32c(copy.subarray(8)), 4);
  return copy;
}

/** The state, or undefined when the bytes were refused; any other error than its own is thrown on. */
function parseOrRefuse(bytes: Uint8Array, major: number): SlotState | undefined {
  try {
    return parseSlotState(bytes, major);
  } catch (error) {
    if (error instanceof SlotStateError) return undefined;
    throw error;
  }
}

test("the checksum is CRC-32C (the check value of its definition)", () => {
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
  expect(crc32c(new Uint8Array())).toBe(0);
});

describe("state files that servers wrote are read as those servers showed them", () => {
  test.each(FIXTURES)("$major: $what", ({ major, packed, state }) => {
    const bytes = unpack(packed);
    expect(parseSlotState(bytes, major)).toEqual(state);
    expect(parseSlotState(new Uint8Array(bytes), major)).toEqual(state);
  });

  test("what lies around the bytes in memory is not read", () => {
    for (const major of MAJORS) {
      const { bytes, state } = fixture(major);
      const around = Buffer.alloc(bytes.length + 14, 0xff);
      bytes.copy(around, 7);
      expect(parseSlotState(around.subarray(7, 7 + bytes.length), major)).toEqual(state);
    }
  });

  test("xmin, the other kinds of slot, and a slot that the built-in worker made", () => {
    const { bytes, state } = fixture(18);
    const xmin = resealed(bytes, (copy) => copy.writeUInt32LE(0xffffffff, 88));
    expect(parseSlotState(xmin, 18)).toEqual({ ...state, xmin: 0xffffffff });
    const temporary = resealed(bytes, (copy) => copy.writeUInt32LE(2, 84));
    expect(parseSlotState(temporary, 18)).toEqual({ ...state, persistency: "temporary" });
    const ephemeral = resealed(bytes, (copy) => copy.writeUInt32LE(1, 84));
    expect(parseSlotState(ephemeral, 18)).toEqual({ ...state, persistency: "ephemeral" });
    const synced = resealed(bytes, (copy) => copy.writeUInt8(1, 193));
    expect(parseSlotState(synced, 18)).toEqual({ ...state, synced: true });
  });
});

describe("a damaged or foreign state file is refused, and nothing else is thrown (I11)", () => {
  test("cut off at every length, or longer", () => {
    for (const { major, packed } of FIXTURES) {
      const bytes = unpack(packed);
      for (let length = 0; length < bytes.length; length++) {
        expect(() => parseSlotState(bytes.subarray(0, length), major)).toThrow(SlotStateError);
      }
      const longer = Buffer.concat([bytes, Buffer.alloc(8)]);
      expect(() => parseSlotState(longer, major)).toThrow(SlotStateError);
      expect(() =>
        parseSlotState(
          resealed(longer, () => {}),
          major,
        ),
      ).toThrow(`${longer.length} bytes with a length of ${bytes.length - 16}`);
    }
  });

  test("with any one byte changed", () => {
    for (const { major, packed } of FIXTURES) {
      const bytes = unpack(packed);
      for (let at = 0; at < bytes.length; at++) {
        for (const flip of [1, 2, 4, 8, 16, 32, 64, 128, 255]) {
          const changed = Buffer.from(bytes);
          changed.writeUInt8(changed.readUInt8(at) ^ flip, at);
          expect(parseOrRefuse(changed, major)).toBeUndefined();
        }
      }
    }
  });

  test("of random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom(...MAJORS), (bytes, major) => {
        expect(parseOrRefuse(bytes, major)).toBeUndefined();
      }),
    );
  });

  test("whatever lies behind a matching checksum, it is parsed or refused", () => {
    const patch = fc.record({
      at: fc.integer({ min: 16, max: 199 }),
      bytes: fc.uint8Array({ maxLength: 70 }),
    });
    fc.assert(
      fc.property(fc.constantFrom(...MAJORS), fc.array(patch, { maxLength: 3 }), (major, patches) => {
        const changed = resealed(fixture(major).bytes, (copy) => {
          for (const { at, bytes } of patches)
            if (at < copy.length) copy.set(bytes.subarray(0, copy.length - at), at);
        });
        const state = parseOrRefuse(changed, major);
        // what is taken comes out of a rewrite as it went in
        if (state) expect(rewriteSlotState(changed, major, {})).toEqual(changed);
      }),
    );
  });

  test("of another major, except where the two have one format", () => {
    const sameFormat = new Map([
      [11, [11, 12]],
      [12, [11, 12]],
      [13, [13]],
      [14, [14, 15]],
      [15, [14, 15]],
      [16, [16]],
      [17, [17, 18]],
      [18, [17, 18]],
    ]);
    for (const written of MAJORS) {
      const { bytes } = fixture(written);
      const takenBy = MAJORS.filter((major) => parseOrRefuse(bytes, major) !== undefined);
      expect([written, takenBy]).toEqual([written, sameFormat.get(written)]);
    }
    for (const unknown of [10, 19, Number.NaN]) {
      expect(() => parseSlotState(fixture(18).bytes, unknown)).toThrow(/PostgreSQL \w+ is not known/);
    }
  });

  const { bytes } = fixture(17);
  const NAME = 16;
  const PLUGIN = 129;
  const PLUGIN_LOGICAL = fixture(18).bytes;
  test.each<[string, RegExp, Buffer, number]>([
    [
      "of a big-endian machine",
      /big-endian/,
      Buffer.concat([Buffer.from("01051ca1", "hex"), bytes.subarray(4)]),
      17,
    ],
    [
      "of another kind",
      /wrong magic number 0xbadcafe/,
      resealed(bytes, (copy) => copy.writeUInt32LE(0xbadcafe)),
      17,
    ],
    [
      "of a version to come",
      /version 6, but PostgreSQL 17 writes 5/,
      resealed(bytes, (copy) => copy.writeUInt32LE(6, 8)),
      17,
    ],
    [
      "with another length",
      /with a length of 192/,
      resealed(bytes, (copy) => copy.writeUInt32LE(192, 12)),
      17,
    ],
    [
      "with a wrong checksum",
      /wrong checksum/,
      Buffer.concat([bytes.subarray(0, 4), Buffer.alloc(4), bytes.subarray(8)]),
      17,
    ],
    ["without a name", /not a slot name: ""/, resealed(bytes, (copy) => copy.fill(0, NAME, NAME + 64)), 17],
    [
      "with a name that is a path",
      /not a slot name: "..\/x"/,
      resealed(bytes, (copy) => copy.write("../x\0\0", NAME)),
      17,
    ],
    [
      "with a name that does not end",
      /name does not end/,
      resealed(bytes, (copy) => copy.fill("a", NAME, NAME + 64)),
      17,
    ],
    [
      "with something behind its name",
      /name goes on after its end/,
      resealed(bytes, (copy) => copy.fill("a", NAME + 63, NAME + 64)),
      17,
    ],
    [
      "with a plugin that does not end",
      /plugin does not end/,
      resealed(PLUGIN_LOGICAL, (copy) => copy.fill("a", PLUGIN, PLUGIN + 64)),
      18,
    ],
    [
      "with a plugin that is not UTF-8",
      /plugin is not UTF-8/,
      resealed(PLUGIN_LOGICAL, (copy) => copy.writeUInt8(0xff, PLUGIN)),
      18,
    ],
    [
      "of an unknown persistency",
      /unknown persistency 3/,
      resealed(bytes, (copy) => copy.writeUInt32LE(3, 84)),
      17,
    ],
    [
      "neither two_phase nor not",
      /two_phase is neither/,
      resealed(bytes, (copy) => copy.writeUInt8(2, 128)),
      17,
    ],
    ["neither synced nor not", /synced is neither/, resealed(bytes, (copy) => copy.writeUInt8(2, 193)), 17],
    [
      "neither failover nor not",
      /failover is neither/,
      resealed(bytes, (copy) => copy.writeUInt8(255, 194)),
      17,
    ],
  ])("%s: it says so", (_, message, damaged, major) => {
    expect(() => parseSlotState(damaged, major)).toThrow(SlotStateError);
    expect(() => parseSlotState(damaged, major)).toThrow(message);
    expect(() => rewriteSlotState(damaged, major, {})).toThrow(message);
  });
});

describe("a rewritten state file differs in what was asked for, and is what PostgreSQL would load", () => {
  const name = fc.stringMatching(/^[a-z0-9_]{1,63}$/);
  const plugin = fc
    .string({ unit: "grapheme", minLength: 1 })
    .filter((text) => Buffer.byteLength(text) < 64 && !text.includes("\0"));

  test("each change alone and together; everything else stays byte for byte", () => {
    const changes = fc.record(
      {
        name,
        plugin,
        persistency: fc.constant("persistent" as const),
        twoPhase: fc.constant(false as const),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.constantFrom(...FIXTURES), changes, ({ major, packed, state }, changed) => {
        const bytes = unpack(packed);
        const before = Buffer.from(bytes);
        const rewritten = rewriteSlotState(bytes, major, changed);
        expect(bytes).toEqual(before);
        expect(rewritten).not.toBe(bytes);
        expect(parseSlotState(rewritten, major)).toEqual({
          ...state,
          ...changed,
          ...(changed.twoPhase === false ? { twoPhaseAt: null } : {}),
        });
        const back = rewriteSlotState(rewritten, major, {
          name: state.name,
          ...(state.plugin === "" ? {} : { plugin: state.plugin }),
        });
        if (changed.twoPhase === undefined && state.plugin !== "") expect(back).toEqual(bytes);
      }),
    );
  });

  test("a temporary slot's file becomes that of a persistent one", () => {
    for (const major of MAJORS) {
      const { bytes } = fixture(major);
      const temporary = resealed(bytes, (copy) => copy.writeUInt32LE(2, 84));
      expect(rewriteSlotState(temporary, major, { persistency: "persistent" })).toEqual(bytes);
    }
  });

  test("without two_phase it is the file of a slot that never had it", () => {
    const { bytes, state } = fixture(14);
    const rewritten = rewriteSlotState(bytes, 14, { twoPhase: false });
    expect(rewritten.subarray(120, 129)).toEqual(Buffer.alloc(9));
    expect(parseSlotState(rewritten, 14)).toEqual({ ...state, twoPhase: false, twoPhaseAt: null });
    expect(rewriteSlotState(fixture(13).bytes, 13, { twoPhase: false })).toEqual(fixture(13).bytes);
  });

  test("a slot that a server synced when it was a standby becomes an ordinary one", () => {
    const { bytes } = fixture(17);
    const synced = resealed(bytes, (copy) => copy.writeUInt8(1, 193));
    expect(rewriteSlotState(synced, 17, { synced: false })).toEqual(bytes);
    expect(rewriteSlotState(fixture(16).bytes, 16, { synced: false })).toEqual(fixture(16).bytes);
  });

  test("a byte order mark is a part of the plugin's name", () => {
    const rewritten = rewriteSlotState(fixture(16).bytes, 16, { plugin: "\ufeffplugin" });
    expect(parseSlotState(rewritten, 16).plugin).toBe("\ufeffplugin");
  });

  test("a shorter name or plugin leaves nothing of the longer one behind", () => {
    const long = rewriteSlotState(fixture(18).bytes, 18, { name: "n".repeat(63), plugin: "p".repeat(63) });
    expect(rewriteSlotState(long, 18, { name: "sub1", plugin: "test_decoding" })).toEqual(fixture(18).bytes);
  });

  test.each([
    { name: "" },
    { name: "Upper" },
    { name: "../state" },
    { name: "a\0b" },
    { name: "n".repeat(64) },
    { plugin: "" },
    { plugin: "a\0b" },
    { plugin: "p".repeat(64) },
    { plugin: "ü".repeat(32) },
    { plugin: "\ud800" },
  ])("%j is refused (I13)", (changes) => {
    expect(() => rewriteSlotState(fixture(16).bytes, 16, changes)).toThrow(SlotStateError);
  });
});
