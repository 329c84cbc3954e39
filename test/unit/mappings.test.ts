/** Logical rewrite mappings on disk (I16): what their names say, and how they are placed beside a server that may be writing to them. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { hasMapping, placeMapping, removeMappingLeftovers } from "../../src/datadir/mappings.ts";
import { parseLsn } from "../../src/domain/lsn.ts";
import { hasHole, MAPPING_BYTES, rewriteBegan } from "../../src/pg/mapping-file.ts";

const NAME = "map-5-4eb-0_3000060-2e8-2e9";

describe("the name of a file of mappings (I13)", () => {
  test("says where the rewrite began", () => {
    expect(rewriteBegan(NAME)).toBe(parseLsn("0/3000060"));
    expect(rewriteBegan("map-0-4ed-1A_FF-ffffffff-3")).toBe(parseLsn("1A/FF"));
  });

  test.each([
    "map-5-4eb-0_3000060-2e8",
    "map-5-4eb-0_3000060-2e8-2e9.tmp",
    "map-5-4eb-0_3000060-2e8-2e9/../../x",
    "../map-5-4eb-0_3000060-2e8-2e9",
    "map-5-4eb-0_3000060-2e8-123456789",
    "map-5-4EB-0_3000060-2e8-2e9",
    "map-5-4eb-0_3000060-2e8-2e9\n",
    "state",
    "",
  ])("%j is none, and nothing is placed under it", async (name) => {
    expect(rewriteBegan(name)).toBeNull();
    await expect(placeMapping(directory(), name, pieces(mappings(1)))).rejects.toThrow(RangeError);
    await expect(hasMapping(directory(), name)).rejects.toThrow(RangeError);
  });
});

describe("placing a file of mappings (I16)", () => {
  test("one that is missing is placed whole, in whatever pieces it comes", async () => {
    const dir = directory();
    const whole = mappings(3);
    await placeMapping(dir, NAME, pieces(whole.subarray(0, 50), whole.subarray(50)));
    expect(read(dir)).toEqual(whole);
    expect(readdirSync(folderOf(dir))).toEqual([NAME]);
    expect(await hasMapping(dir, NAME)).toBe(true);
  });

  test("what replay has left out at its head is filled in, and what it has written since stays", async () => {
    const dir = directory();
    const whole = mappings(5);
    const holed = Buffer.from(whole);
    holed.fill(0, 0, 2 * MAPPING_BYTES);
    write(dir, holed);
    expect(await hasMapping(dir, NAME)).toBe(false);
    await placeMapping(dir, NAME, pieces(whole.subarray(0, 3 * MAPPING_BYTES)));
    expect(read(dir)).toEqual(whole);
    expect(await hasMapping(dir, NAME)).toBe(true);
  });

  test("a file that is shorter here is completed, in place: the server may have it open", async () => {
    const dir = directory();
    const whole = mappings(4);
    write(dir, Buffer.alloc(0));
    expect(await hasMapping(dir, NAME)).toBe(false);
    write(dir, whole.subarray(0, MAPPING_BYTES));
    expect(await hasMapping(dir, NAME), "the rest is yet to be replayed").toBe(true);
    await placeMapping(dir, NAME, pieces(whole));
    expect(read(dir)).toEqual(whole);
  });

  test("a part of a mapping at the end is left out: its record is yet to come", async () => {
    const dir = directory();
    await placeMapping(dir, NAME, pieces(mappings(2).subarray(0, MAPPING_BYTES + 7)));
    expect(read(dir)).toEqual(mappings(2).subarray(0, MAPPING_BYTES));
  });

  test("cut off at any step it leaves nothing under a name that PostgreSQL reads but what is right, and the next attempt completes it", async () => {
    for (const before of [null, mappings(1)]) {
      for (let cut = 0; ; cut += 1) {
        const dir = directory();
        if (before) write(dir, before);
        const steps: string[] = [];
        const beforeStep = (step: string) => {
          steps.push(step);
          if (steps.length > cut) throw new Error("cut off");
        };
        const done = await placeMapping(dir, NAME, pieces(mappings(3)), { beforeStep }).then(
          () => true,
          () => false,
        );
        for (const name of readdirSync(folderOf(dir)))
          if (name.startsWith("map-")) expect([before, mappings(3)]).toContainEqual(read(dir));
          else expect(name).toMatch(/^slotsync-.*\.tmp$/);
        await removeMappingLeftovers(dir);
        await placeMapping(dir, NAME, pieces(mappings(3)));
        expect(read(dir)).toEqual(mappings(3));
        expect(readdirSync(folderOf(dir))).toEqual([NAME]);
        if (done) break;
      }
    }
  });

  test("what its source throws comes through, and leaves nothing", async () => {
    const dir = directory();
    async function* failing() {
      yield mappings(1);
      throw new Error("the primary is gone");
    }
    await expect(placeMapping(dir, NAME, failing())).rejects.toThrow("the primary is gone");
    expect(readdirSync(folderOf(dir))).toEqual([]);
  });

  test("something else in its place is not written to", async () => {
    const dir = directory();
    mkdirSync(path.join(folderOf(dir), NAME));
    await expect(placeMapping(dir, NAME, pieces(mappings(1)))).rejects.toThrow("pg_logical/mappings");
    expect(await hasMapping(dir, NAME)).toBe(false);
    expect(existsSync(path.join(folderOf(dir), NAME))).toBe(true);
  });
});

test("a mapping that was never written is a hole, wherever it is", () => {
  expect(hasHole(mappings(3))).toBe(false);
  for (const at of [0, 1, 2]) {
    const holed = mappings(3);
    holed.fill(0, at * MAPPING_BYTES, (at + 1) * MAPPING_BYTES);
    expect(hasHole(holed)).toBe(true);
  }
});

/** So many mappings, each of other bytes. */
function mappings(count: number): Buffer {
  return Buffer.concat(Array.from({ length: count }, (_, index) => Buffer.alloc(MAPPING_BYTES, index + 1)));
}

async function* pieces(...bytes: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* bytes;
}

function directory(): string {
  const dir = mkdtempSync(path.join(tmpdir(), "pg-slotsync-mappings-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  mkdirSync(folderOf(dir), { recursive: true });
  return dir;
}

function folderOf(dir: string): string {
  return path.join(dir, "pg_logical/mappings");
}

function read(dir: string): Buffer {
  return readFileSync(path.join(folderOf(dir), NAME));
}

function write(dir: string, bytes: Uint8Array): void {
  writeFileSync(path.join(folderOf(dir), NAME), bytes);
}
