import { test } from "vitest";
import { describeEach, testedMajors } from "../support/majors.ts";
import { ALL } from "./catalogue.ts";
import { SCENARIOS } from "./scenarios.ts";

/** The scenarios that apply to this major; all of them are for a run without PG_MAJORS. */
export function conformance(major: number): void {
  const used = process.env.PG_MAJORS === undefined ? [major] : testedMajors();
  describeEach([major], used, () => {
    for (const { key, title, majors } of ALL)
      if (majors.includes(major)) test(title, () => SCENARIOS[key](major));
  });
}
