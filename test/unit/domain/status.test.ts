/** What the status says of a node that is a primary now. */
import { expect, test } from "vitest";
import { answer, isCertain } from "../../../src/domain/assess.ts";
import { buildStatus } from "../../../src/domain/status.ts";
import { GUARD, journalOf, NOW } from "./build.ts";

const PRIMARY = journalOf([], { phase: "primary", primaryLostAt: NOW });

test("a new primary has lost no primary, and has no guards, whatever its journal remembers", () => {
  expect(buildStatus(PRIMARY, null, [], "live")).toMatchObject({ primaryLostAt: null, guards: [] });
  const promoting = buildStatus({ ...PRIMARY, phase: "promoting" }, null, [], "live");
  expect(promoting.primaryLostAt).not.toBeNull();
  expect(promoting.guards).toMatchObject([{ name: GUARD }]);
});

test("of a former primary that does not answer nothing can be told, also not that it is a primary", () => {
  const problem = { code: "standby_unreachable", severity: "stop", message: "gone" } as const;
  const said = (problems: readonly (typeof problem)[]) => {
    const status = buildStatus(PRIMARY, null, problems, "live");
    return answer({ status, certain: isCertain(status.problems) });
  };
  expect(said([])).toMatchObject({ code: 1, line: expect.stringContaining("is a primary") });
  expect(said([problem])).toEqual({ code: 2, line: "cannot tell: gone" });
});
