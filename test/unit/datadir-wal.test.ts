import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WalSegmentError } from "../../src/datadir/errors.ts";
import {
  type ExpectedSegment,
  missingSegments,
  placeSegment,
  segmentName,
  segmentsBetween,
  verifySegment,
} from "../../src/datadir/wal.ts";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";

const MB = 2 ** 20;
const PAGE = 8192;

describe("segments", () => {
  test.each([
    [1, 1, 16 * MB, "000000010000000000000001"],
    [1, 255, 16 * MB, "0000000100000000000000FF"],
    [1, 256, 16 * MB, "000000010000000100000000"],
    [0x1a, 0x123456, 16 * MB, "0000001A0000123400000056"],
    [2, 4096, MB, "000000020000000100000000"],
    [2, 4095, MB, "000000020000000000000FFF"],
    [3, 7, 1024 * MB, "000000030000000100000003"],
    [1, 2 ** 40 - 1, 16 * MB, "00000001FFFFFFFF000000FF"],
  ])("timeline %i, number %i, of %i bytes: %s", (timeline, number, bytes, name) => {
    expect(segmentName(timeline, number, bytes)).toBe(name);
  });

  test.each([
    ["0/1000000", "0/1000000", []],
    ["0/1000000", "0/1000001", [1]],
    ["0/1000028", "0/1000028", [1]],
    ["0/1000028", "0/2000000", [1]],
    ["0/1FFFFFF", "0/2000001", [1, 2]],
    ["0/FF000000", "1/1", [255, 256]],
    ["0/2000000", "0/1000000", []],
  ])("those from %s to %s", (from, to, numbers) => {
    expect(segmentsBetween(parseLsn(from), parseLsn(to), 16 * MB)).toEqual(numbers);
  });
});

const expected: ExpectedSegment = {
  systemIdentifier: "7654321098765432109",
  segmentBytes: MB,
  timeline: 3,
  segmentNumber: 5,
  major: 15,
};
const name = segmentName(3, 5, MB);

interface Made {
  pages?: number;
  timelineOf?: (page: number) => number;
  number?: number;
}

function segment({ pages = MB / PAGE, timelineOf = () => 3, number = 5 }: Made = {}): Buffer {
  const bytes = Buffer.alloc(MB);
  for (let page = 0; page < pages; page += 1) {
    const at = page * PAGE;
    bytes.writeUInt16LE(0xd110, at);
    bytes.writeUInt16LE(page === 0 ? 2 : 0, at + 2);
    bytes.writeUInt32LE(timelineOf(page), at + 4);
    bytes.writeBigUInt64LE(BigInt(number * MB + at), at + 8);
    bytes.fill(0xab, at + 40, at + PAGE);
  }
  bytes.writeBigUInt64LE(BigInt(expected.systemIdentifier), 24);
  bytes.writeUInt32LE(MB, 32);
  bytes.writeUInt32LE(PAGE, 36);
  return bytes;
}

describe("a segment is verified", () => {
  test.each<[string, Buffer]>([
    ["a full one", segment()],
    ["one that ends in a switch", segment({ pages: 3 })],
    ["one in which the timeline branched off", segment({ timelineOf: (page) => (page < 4 ? 1 : 3) })],
    ["one that is wholly the parent's", segment({ timelineOf: () => 2 })],
  ])("%s is good", async (_, bytes) => {
    await expect(verifySegment(bytes, expected)).resolves.toBeUndefined();
  });

  const edited = (edit: (bytes: Buffer) => void): Buffer => {
    const bytes = segment();
    edit(bytes);
    return bytes;
  };
  test.each<[string, Uint8Array, RegExp]>([
    ["nothing", new Uint8Array(), /has 0 bytes, not 1048576/],
    ["less than a header", segment().subarray(0, 20), /has 20 bytes/],
    ["a part", segment().subarray(0, MB - PAGE), /has 1040384 bytes/],
    ["too much", Buffer.concat([segment(), Buffer.alloc(1)]), /has 1048577 bytes/],
    ["zeros", Buffer.alloc(MB), /magic is 0000/],
    [
      "another major's",
      edited((bytes) => bytes.writeUInt16LE(0xd10d, 0)),
      /magic is D10D, that of PostgreSQL 15 is D110/,
    ],
    ["no long header", edited((bytes) => bytes.writeUInt16LE(0, 2)), /does not begin/],
    [
      "another cluster's",
      edited((bytes) => bytes.writeUInt8(0, 24)),
      /of the cluster with system identifier/,
    ],
    [
      "another segment size",
      edited((bytes) => bytes.writeUInt32LE(2 * MB, 32)),
      /segments have 2097152 bytes/,
    ],
    ["another segment", segment({ number: 6 }), /page at offset 0 is that of 0\/600000, not of 0\/500000/],
    ["a newer timeline", segment({ timelineOf: () => 4 }), /of timeline 4/],
    ["a timeline of no cluster", segment({ timelineOf: () => 0 }), /of timeline 0/],
    [
      "timelines that go back",
      segment({ timelineOf: (page) => (page < 4 ? 3 : 2) }),
      /offset 32768 is of timeline 2/,
    ],
    [
      "a recycled file that is not filled yet",
      Buffer.concat([segment().subarray(0, 5 * PAGE), segment({ number: 1 }).subarray(5 * PAGE)]),
      /page at offset 40960 is that of 0\/10A000/,
    ],
    [
      "a hole",
      edited((bytes) => bytes.fill(0, 3 * PAGE, 4 * PAGE)),
      /offset 32768 after one that is not there/,
    ],
    [
      "a page of another major",
      edited((bytes) => bytes.writeUInt16LE(1, PAGE)),
      /page at offset 8192 has magic 0001/,
    ],
  ])("%s is refused (I3)", async (_, bytes, problem) => {
    const refused = verifySegment(bytes, expected);
    await expect(refused).rejects.toBeInstanceOf(WalSegmentError);
    await expect(refused).rejects.toThrow(problem);
  });

  test("a major that is not known is refused", async () => {
    await expect(verifySegment(segment(), { ...expected, major: 19 })).rejects.toThrow(
      /PostgreSQL 19 is not known/,
    );
  });
});

describe("pg_wal", () => {
  let dir: string;
  let wal: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "slotsync-wal-"));
    wal = join(dir, "pg_wal");
    mkdirSync(join(wal, "archive_status"), { recursive: true });
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  async function* inChunks(bytes: Buffer, size = 100_000) {
    for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
  }

  test("a segment is there under any timeline, if it has its full size (I3)", async () => {
    const from = parseLsn("0/100010");
    const to = parseLsn("0/500000");
    for (const [timeline, number] of [
      [1, 1],
      [2, 2],
      [1, 3],
      [2, 3],
      [1, 4],
    ] as const) {
      writeFileSync(join(wal, segmentName(timeline, number, MB)), Buffer.alloc(MB));
    }
    expect(await missingSegments(dir, from, to, MB)).toEqual([]);
    truncateSync(join(wal, segmentName(1, 3, MB)), 10);
    expect(await missingSegments(dir, from, to, MB)).toEqual([]);
    truncateSync(join(wal, segmentName(2, 3, MB)), 10);
    rmSync(join(wal, segmentName(1, 4, MB)));
    writeFileSync(join(wal, `${segmentName(1, 4, MB)}.partial`), Buffer.alloc(MB));
    expect(await missingSegments(dir, from, to, MB)).toEqual([3, 4]);
    expect(await missingSegments(dir, from, from, MB)).toEqual([]);
    await expect(missingSegments(join(dir, "no"), from, to, MB)).rejects.toMatchObject({ reason: "missing" });
  });

  test("a placed segment is whole, and not to be archived again (I3)", async () => {
    const bytes = segment();
    await placeSegment(dir, name, inChunks(bytes), expected);
    expect(readFileSync(join(wal, name)).equals(bytes)).toBe(true);
    expect(readdirSync(wal).sort()).toEqual([name, "archive_status"].sort());
    expect(readdirSync(join(wal, "archive_status"))).toEqual([`${name}.done`]);
    expect(await missingSegments(dir, (5n * BigInt(MB)) as Lsn, (6n * BigInt(MB)) as Lsn, MB)).toEqual([]);
  });

  test("one that is there is left as it is", async () => {
    writeFileSync(join(wal, name), "the server's");
    await placeSegment(dir, name, inChunks(segment()), expected);
    expect(readFileSync(join(wal, name), "utf8")).toBe("the server's");
  });

  test("one that comes into being meanwhile is left as it is", async () => {
    await placeSegment(dir, name, inChunks(segment()), expected, {
      beforeStep: (step) => {
        if (step.startsWith("link")) writeFileSync(join(wal, name), "the server's");
      },
    });
    expect(readFileSync(join(wal, name), "utf8")).toBe("the server's");
    expect(readdirSync(wal)).toHaveLength(2);
  });

  test("what is not that segment is not placed, and nothing is left of it (I3)", async () => {
    for (const bytes of [segment({ number: 6 }), segment().subarray(PAGE), Buffer.alloc(2 * MB)]) {
      await expect(placeSegment(dir, name, inChunks(bytes), expected)).rejects.toBeInstanceOf(
        WalSegmentError,
      );
    }
    async function* broken() {
      yield segment().subarray(0, PAGE);
      throw new RangeError("the primary is gone");
    }
    await expect(placeSegment(dir, name, broken(), expected)).rejects.toThrow(
      new RangeError("the primary is gone"),
    );
    expect(readdirSync(wal)).toEqual(["archive_status"]);
  });

  test("a name that is not that segment's touches no path (I13)", async () => {
    for (const wrong of ["../../etc/passwd", segmentName(3, 6, MB), ""]) {
      await expect(placeSegment(dir, wrong, inChunks(segment()), expected)).rejects.toBeInstanceOf(
        RangeError,
      );
    }
    expect(readdirSync(wal)).toEqual(["archive_status"]);
  });

  test("cut off at any step, the segment is whole or not there", async () => {
    for (let cut = 0; ; cut += 1) {
      let step = 0;
      const done = await placeSegment(dir, name, inChunks(segment()), expected, {
        beforeStep: () => {
          if (step === cut) throw new Error("cut off");
          step += 1;
        },
      }).then(
        () => true,
        () => false,
      );
      if (existsSync(join(wal, name))) expect(readFileSync(join(wal, name)).equals(segment())).toBe(true);
      if (done) break;
      // what is left looks like a segment in the making
      const others = readdirSync(wal).filter((file) => file !== name && file !== "archive_status");
      expect(others.every((file) => file.startsWith("xlogtemp."))).toBe(true);
    }
    // the last call removed what those before it had left
    expect(readdirSync(wal).sort()).toEqual([name, "archive_status"].sort());
  });

  test("segments that are placed at the same time do not disturb each other", async () => {
    const numbers = [5, 6, 7];
    await Promise.all(
      [...numbers, 5].map((number) =>
        placeSegment(dir, segmentName(3, number, MB), inChunks(segment({ number }), 10_000), {
          ...expected,
          segmentNumber: number,
        }),
      ),
    );
    expect(readdirSync(wal).sort()).toEqual(
      [...numbers.map((n) => segmentName(3, n, MB)), "archive_status"].sort(),
    );
  });
});
