import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import { crc32c } from "../../src/pg/crc32c.ts";
import {
  SnapshotFileError,
  type SnapshotHeader,
  snapshotFileName,
  verifySnapshotFile,
} from "../../src/pg/snapshot-file.ts";

/** Bytes in hexadecimal, where `60*0` stands for 60 zero bytes. */
function unpack(text: string): Buffer {
  const parts = text.split(" ").map((part) => {
    const zeros = /^(\d+)\*0$/.exec(part)?.[1];
    return zeros ? Buffer.alloc(Number(zeros)) : Buffer.from(part, "hex");
  });
  return Buffer.concat(parts);
}

interface Fixture {
  major: number;
  version: number;
  /** where the numbers of elements of the arrays are */
  countsAt: number[];
  packed: string;
}

/**
 * Files that servers of these majors wrote (11.22, 12.22, 13.23, 14.23, 15.18, 16.14, 17.10, 18.4), each with one transaction
 * that had changed the catalog and committed, and one that was running.
 */
const FIXTURES: readonly Fixture[] = [
  {
    major: 11,
    version: 2,
    countsAt: [96, 112],
    packed:
      "01e0a15141acf57702 3*0 94 3*0 02 15*0 390200003b020000e0d36601 20*0 d82f6701 44*0 01 7*0 80 7*0 01 15*0 3a020000",
  },
  {
    major: 12,
    version: 2,
    countsAt: [96, 112],
    packed:
      "01e0a15132a009d502 3*0 94 3*0 02 15*0 e7010000e901000078636501 20*0 e0a46501 44*0 01 7*0 80 7*0 01 15*0 e8010000",
  },
  {
    major: 13,
    version: 2,
    countsAt: [96, 112],
    packed:
      "01e0a151dc83ada702 3*0 94 3*0 02 15*0 e6010000e801000018695d01 20*0 58915d01 44*0 01 7*0 80 7*0 01 15*0 e7010000",
  },
  {
    major: 14,
    version: 4,
    countsAt: [96],
    packed:
      "01e0a151501f12f004 3*0 84 3*0 02 15*0 de020000e002000020807001 4*0 20807001 20*0 80b17001 20*0 01 7*0 80 7*0 01 15*0 df020000",
  },
  {
    major: 15,
    version: 4,
    countsAt: [96],
    packed:
      "01e0a151c20400f304 3*0 84 3*0 02 15*0 d5020000d7020000c8af5001 4*0 c8af5001 20*0 60f25001 20*0 01 7*0 80 7*0 01 15*0 d6020000",
  },
  {
    major: 16,
    version: 5,
    countsAt: [96, 128],
    packed:
      "01e0a1516119276405 3*0 98 3*0 02 15*0 db020000dd02000098574f01 4*0 98574f01 20*0 f0b14f01 20*0 01 7*0 80 7*0 01 15*0 01 15*0 dc020000db020000",
  },
  {
    major: 17,
    version: 6,
    countsAt: [96, 128],
    packed:
      "01e0a1518c13e18d06 3*0 98 3*0 02 15*0 e3020000e5020000b8ff4e01 4*0 b8ff4e01 20*0 d84c4f01 20*0 01 7*0 80 7*0 01 15*0 01 15*0 e4020000e3020000",
  },
  {
    major: 18,
    version: 6,
    countsAt: [96, 128],
    packed:
      "01e0a151eae39ae606 3*0 98 3*0 02 15*0 f1020000f302000058427601 4*0 58427601 20*0 08c47601 20*0 01 7*0 80 7*0 01 15*0 01 15*0 f2020000f1020000",
  },
];

const MAJORS = FIXTURES.map(({ major }) => major);

function fileOf(major: number): Buffer {
  return unpack(FIXTURES.find((each) => each.major === major)?.packed ?? "");
}

/** A copy with this change, and the checksum made to fit: damage that only the checks behind it can see. */
function resealed(bytes: Buffer, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(bytes);
  change(copy);
  copy.writeUInt32LE(crc32c(copy.subarray(8)), 4);
  return copy;
}

/** The header, or undefined when the bytes were refused; any other error than its own is thrown on. */
function verifyOrRefuse(bytes: Uint8Array, major: number): SnapshotHeader | undefined {
  try {
    return verifySnapshotFile(bytes, major);
  } catch (error) {
    if (error instanceof SnapshotFileError) return undefined;
    throw error;
  }
}

test.each([
  ["0/168EC40", "0-168EC40.snap"],
  ["16/B374D848", "16-B374D848.snap"],
  ["A/F", "A-F.snap"],
  ["0/0", "0-0.snap"],
  ["FFFFFFFF/FFFFFFFF", "FFFFFFFF-FFFFFFFF.snap"],
])("the snapshot of %s is called %s", (lsn, name) => {
  expect(snapshotFileName(parseLsn(lsn))).toBe(name);
});

test("two positions never share a snapshot's name", () => {
  const lsn = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }) as fc.Arbitrary<Lsn>;
  fc.assert(
    fc.property(lsn, (position) => {
      const [, high, low] = /^([0-9A-F]+)-([0-9A-F]+)\.snap$/.exec(snapshotFileName(position)) ?? [];
      expect(parseLsn(`${high}/${low}`)).toBe(position);
    }),
  );
});

describe("snapshot files that servers wrote are taken", () => {
  test.each(FIXTURES)("$major: version $version", ({ major, version, packed }) => {
    const bytes = unpack(packed);
    const sizeBytes = bytes.length;
    expect(verifySnapshotFile(bytes, major)).toEqual({ version, length: sizeBytes, sizeBytes });
    expect(verifySnapshotFile(new Uint8Array(bytes), major).sizeBytes).toBe(sizeBytes);
  });

  test("what lies around the bytes in memory is not read", () => {
    for (const major of MAJORS) {
      const bytes = fileOf(major);
      const around = Buffer.alloc(bytes.length + 14, 0xff);
      bytes.copy(around, 7);
      expect(verifySnapshotFile(around.subarray(7, 7 + bytes.length), major).length).toBe(bytes.length);
    }
  });

  test("with arrays of any size", () => {
    fc.assert(
      fc.property(fc.constantFrom(...FIXTURES), fc.uint8Array({ maxLength: 400 }), (fixture, xids) => {
        const { major, packed, countsAt } = fixture;
        const more = xids.subarray(0, xids.length - (xids.length % 4));
        for (const at of countsAt) {
          const grown = resealed(Buffer.concat([unpack(packed), more]), (copy) => {
            copy.writeUInt32LE(copy.length, 12);
            copy.writeBigUInt64LE(copy.readBigUInt64LE(at) + BigInt(more.length / 4), at);
          });
          expect(verifySnapshotFile(grown, major).sizeBytes).toBe(grown.length);
        }
      }),
    );
  });
});

describe("a damaged or foreign snapshot file is no evidence, and nothing else is thrown (I2)", () => {
  test("cut off at every length, or longer", () => {
    for (const major of MAJORS) {
      const bytes = fileOf(major);
      for (let length = 0; length < bytes.length; length++) {
        expect(() => verifySnapshotFile(bytes.subarray(0, length), major)).toThrow(SnapshotFileError);
      }
      expect(() => verifySnapshotFile(Buffer.concat([bytes, Buffer.alloc(4)]), major)).toThrow(
        SnapshotFileError,
      );
    }
  });

  test("cut off at every length by someone who made its length and checksum fit", () => {
    for (const major of MAJORS) {
      const bytes = fileOf(major);
      for (let length = 16; length < bytes.length; length++) {
        const cut = resealed(bytes.subarray(0, length), (copy) => copy.writeUInt32LE(length, 12));
        expect(() => verifySnapshotFile(cut, major)).toThrow(SnapshotFileError);
      }
    }
  });

  test("with any one byte changed", () => {
    for (const major of MAJORS) {
      const bytes = fileOf(major);
      for (let at = 0; at < bytes.length; at++) {
        for (const flip of [1, 2, 4, 8, 16, 32, 64, 128, 255]) {
          const changed = Buffer.from(bytes);
          changed.writeUInt8(changed.readUInt8(at) ^ flip, at);
          expect(verifyOrRefuse(changed, major)).toBeUndefined();
        }
      }
    }
  });

  test("of random bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.constantFrom(...MAJORS), (bytes, major) => {
        expect(verifyOrRefuse(bytes, major)).toBeUndefined();
      }),
    );
  });

  test("whatever lies behind a matching checksum, it is taken or refused", () => {
    const patch = fc.record({
      at: fc.integer({ min: 8, max: 151 }),
      bytes: fc.uint8Array({ maxLength: 16 }),
    });
    fc.assert(
      fc.property(fc.constantFrom(...MAJORS), fc.array(patch, { maxLength: 3 }), (major, patches) => {
        const changed = resealed(fileOf(major), (copy) => {
          for (const { at, bytes } of patches)
            if (at < copy.length) copy.set(bytes.subarray(0, copy.length - at), at);
        });
        const header = verifyOrRefuse(changed, major);
        if (header) expect(header.length).toBe(changed.length);
      }),
    );
  });

  test("of another major, except where the two have one version", () => {
    const version = new Map(FIXTURES.map((each) => [each.major, each.version]));
    for (const written of MAJORS) {
      const takenBy = MAJORS.filter((major) => verifyOrRefuse(fileOf(written), major) !== undefined);
      expect(takenBy).toEqual(MAJORS.filter((major) => version.get(major) === version.get(written)));
    }
    for (const unknown of [10, 19, Number.NaN]) {
      expect(() => verifySnapshotFile(fileOf(18), unknown)).toThrow(/PostgreSQL \w+ is not known/);
    }
  });

  const bytes = fileOf(16);
  test.each<[string, RegExp, Buffer]>([
    [
      "of a big-endian machine",
      /big-endian/,
      Buffer.concat([Buffer.from("51a1e001", "hex"), bytes.subarray(4)]),
    ],
    [
      "of another kind",
      /wrong magic number 0xbadcafe/,
      resealed(bytes, (copy) => copy.writeUInt32LE(0xbadcafe)),
    ],
    [
      "of another version",
      /version 7, but PostgreSQL 16 writes 5/,
      resealed(bytes, (copy) => copy.writeUInt32LE(7, 8)),
    ],
    [
      "with another length",
      /152 bytes, but its length says 136/,
      resealed(bytes, (copy) => copy.writeUInt32LE(136, 12)),
    ],
    [
      "with a wrong checksum",
      /wrong checksum/,
      Buffer.concat([bytes.subarray(0, 4), Buffer.alloc(4), bytes.subarray(8)]),
    ],
    [
      "not yet consistent",
      /not of a consistent state, but of 1/,
      resealed(bytes, (copy) => copy.writeUInt32LE(1, 16)),
    ],
    [
      "not even begun",
      /not of a consistent state, but of -1/,
      resealed(bytes, (copy) => copy.writeInt32LE(-1, 16)),
    ],
    ["with too few ids", /its arrays make it 156/, resealed(bytes, (copy) => copy.writeUInt32LE(2, 96))],
    ["with too many ids", /its arrays make it 148/, resealed(bytes, (copy) => copy.writeUInt32LE(0, 128))],
    [
      "with a number of ids that wraps around to the right length",
      /its arrays make it 18446744073709551768/,
      resealed(bytes, (copy) => copy.writeBigUInt64LE(2n ** 62n + 1n, 96)),
    ],
  ])("%s: it says so", (_, message, damaged) => {
    expect(() => verifySnapshotFile(damaged, 16)).toThrow(SnapshotFileError);
    expect(() => verifySnapshotFile(damaged, 16)).toThrow(message);
  });
});
