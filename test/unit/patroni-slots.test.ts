/** What Patroni is told to do with slots, and where the sidecar is in its way or it in the sidecar's. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { readPatroniSlots } from "../../src/datadir/patroni.ts";
import { standbyProblems } from "../../src/domain/prerequisites.ts";
import { journalOf, standbyView } from "./domain/build.ts";

async function told(content: string): Promise<string[] | null> {
  const directory = mkdtempSync(path.join(tmpdir(), "slotsync-patroni-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(path.join(directory, "patroni.dynamic.json"), content);
  const patroni = await readPatroniSlots(directory);
  if (patroni === null) return null;
  const files = { problem: null, folders: [], folderCount: 0, maxReplicationSlots: 10, patroni };
  return standbyProblems(standbyView([], { files }), journalOf())
    .map(({ code }) => code)
    .filter((code) => code.startsWith("patroni_"));
}

const LOGICAL = { type: "logical" };

test.each<[string, object, string[]]>([
  ["ignores logical slots and keeps none: nothing", { ignore_slots: [LOGICAL] }, []],
  ["ignores by the guards' plugin: nothing", { ignore_slots: [{ plugin: "pgoutput" }] }, []],
  ["is told nothing about slots: it drops the guards", { ttl: 30 }, ["patroni_drops_slots"]],
  [
    "ignores one name only: it drops the guards",
    { ignore_slots: [{ name: "app", ...LOGICAL }] },
    ["patroni_drops_slots"],
  ],
  ["ignores one database only", { ignore_slots: [{ database: "shop" }] }, ["patroni_drops_slots"]],
  ["ignores another plugin only", { ignore_slots: [{ plugin: "wal2json" }] }, ["patroni_drops_slots"]],
  [
    "keeps permanent logical slots itself: its readiness check stumbles over the guards",
    { ignore_slots: [LOGICAL], slots: { mine: { ...LOGICAL, plugin: "pgoutput", database: "shop" } } },
    ["patroni_permanent_slots"],
  ],
  [
    "keeps permanent physical slots: nothing",
    { ignore_slots: [LOGICAL], slots: { db9: { type: "physical" }, x: null } },
    [],
  ],
])("Patroni %s (K7)", async (_, dynamic, codes) => {
  expect(await told(JSON.stringify(dynamic))).toEqual(codes);
});

test("a file that is not Patroni's, or none at all, says nothing", async () => {
  for (const content of ["", "{", "[]", '{"slots": 7}', '{"ignore_slots": "x"}'])
    expect(await told(content)).toBeNull();
  expect(await readPatroniSlots(path.join(tmpdir(), "there-is-no-such-directory"))).toBeNull();
});
