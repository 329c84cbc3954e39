import { expect, test } from "vitest";
import { isOurs } from "../../../src/domain/ownership.ts";
import { lsn, record, slot } from "./build.ts";

test.each([
  { at: 500, ours: true, why: "where it came" },
  { at: 700, ours: true, why: "where we moved it to" },
  { at: 600, ours: true, why: "between: a crash takes it back to what was saved last" },
  { at: 499, ours: false, why: "before it came: an older file of the name was loaded" },
  { at: 701, ours: false, why: "beyond where we ever moved it to: somebody else has read it" },
])("our slot at $at is ours: $ours, for it stands $why (I7)", ({ at, ours }) => {
  const known = record("x", "owned", 700, { bornAt: lsn(500) });
  expect(isOurs(slot("x", at), known)).toBe(ours);
});
