import { expect, test } from "vitest";
import { TARGET_SESSION_ATTRS } from "../../src/pg/conninfo.ts";
import { unfit } from "../../src/pg/hosts.ts";

const SERVERS = {
  primary: { in_recovery: false, read_only: false },
  "read-only primary": { in_recovery: false, read_only: true },
  standby: { in_recovery: true, read_only: false },
};

test.each([
  ["any", ["primary", "read-only primary", "standby"]],
  ["read-write", ["primary"]],
  ["read-only", ["read-only primary", "standby"]],
  ["primary", ["primary", "read-only primary"]],
  ["standby", ["standby"]],
  ["prefer-standby", ["standby"]],
])("target_session_attrs=%s takes %j", (attrs, expected) => {
  const [known] = TARGET_SESSION_ATTRS.filter((each) => each === attrs);
  const taken = Object.entries(SERVERS).filter(([, state]) => unfit(known ?? "any", state) === null);
  expect(taken.map(([name]) => name)).toEqual(expected);
});

test("why a server will not do says what it is and what was asked for", () => {
  expect(unfit("read-write", SERVERS.standby)).toBe("it is a standby, and read-write is asked for");
});
