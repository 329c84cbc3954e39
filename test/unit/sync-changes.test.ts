/** What makes a sidecar look again soon. */
import { expect, test } from "vitest";
import { anyCopyUnprotected } from "../../src/sync/changes.ts";
import { journalOf, record } from "./domain/build.ts";

const SYNC = "pg_16400_sync_16389_7714095152818310914";

test.each([
  [
    "a table is being copied whose slot is not protected: the end of the copy writes no WAL",
    "waiting",
    true,
    true,
  ],
  ["not for one that is protected", "guarded", true, false],
  ["not for one whose copy has ended: it stands against being ready", "waiting", false, false],
] as const)("%s", (_, protection, copying, soon) => {
  const journal = journalOf([record(SYNC, "owned", 500, { protection, copying })]);
  expect(anyCopyUnprotected(journal)).toBe(soon);
});
