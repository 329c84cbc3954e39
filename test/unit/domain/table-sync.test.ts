import { describe, expect, test } from "vitest";
import { type FinishStep, finishedSlot } from "../../../src/domain/finish.ts";
import { tableRepair } from "../../../src/domain/table-sync.ts";
import { journalOf, leftAt, lsn, record } from "./build.ts";

const SYNC = "pg_16400_sync_16389_7714095152818310914";
const sync = (more = {}) => record(SYNC, "owned", 500, more);

/** The report's line where the old primary's history is this node's up to `end`. */
const line = (step: FinishStep, end: number, error: string | null = null) =>
  finishedSlot(step, { journal: journalOf(), own: leftAt(end) }, error);

describe("the gap report says of a table sync's slot what is true of its table (K7)", () => {
  test("one that came through: copied again, or gone on with, or nobody's any more", () => {
    const { detail, repair } = line({ kind: "keep", record: sync(), position: lsn(500) }, 900);
    expect(detail).toMatch(/in state d PostgreSQL copies the table again, in state f it goes on/);
    expect(detail).toContain(`SELECT pg_drop_replication_slot('${SYNC}')`);
    expect(repair).toBeNull();
  });

  test.each<[string, FinishStep, string | null, string]>([
    ["was not protected", { kind: "none", record: sync(), why: "no guard" }, null, "no guard; it"],
    ["could not be made", { kind: "keep", record: sync(), position: lsn(500) }, "no room", "no room; it"],
    ["is ahead of what this node has", { kind: "keep", record: sync(), position: lsn(400) }, null, "it"],
  ])("one that %s: the table never syncs again in state f, and the repair", (_, step, error, begins) => {
    const { detail, repair } = line(step, 400, error);
    expect(detail).toContain(`${begins} serves the initial sync of a table (oid 16389 of`);
    expect(detail).toContain("in state d PostgreSQL copies the table again by itself");
    expect(detail).toContain("in state f THE TABLE NEVER SYNCS AGAIN without this slot");
    expect(repair).toBe(tableRepair({ name: SYNC, plugin: "pgoutput" }));
    for (const part of [
      "srsubid = 16400 AND srrelid = 16389",
      "pg_replication_origin_drop('pg_16400_16389')",
    ])
      expect(repair).toContain(part);
  });

  test("nothing of one that was given up before, nor of any other slot", () => {
    const gone = sync({ obsolete: true });
    expect(line({ kind: "none", record: gone, why: "gone" }, 900)).toMatchObject({
      detail: "gone",
      repair: null,
    });
    const app = record("app", "owned", 500);
    expect(line({ kind: "keep", record: app, position: lsn(500) }, 900).detail).toBeNull();
  });
});
