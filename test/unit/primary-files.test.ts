import { expect, test } from "vitest";
import { readServerFile } from "../../src/apply/primary-files.ts";
import type { PgSession } from "../../src/pg/session.ts";

test("a file of the primary is read up to the size that such a file can have, and no further (I13)", async () => {
  let asked = 0;
  const endless = {
    query: async () => {
      asked += 1;
      return [{ content: `\\x${"00".repeat(1024 * 1024)}` }];
    },
  } as unknown as PgSession;
  await expect(readServerFile(endless, "pg_replslot/a/state", 65_536)).rejects.toThrow(
    "pg_replslot/a/state on the primary has more than 65536 bytes",
  );
  expect(asked).toBe(1);
});
