// Writes docs/conformance.md from the results of a run of test/conformance (npm run conformance).
import { readFileSync, writeFileSync } from "node:fs";
import { availableMajors } from "../src/sandbox/binaries.ts";
import { conformanceTable, type Results } from "../test/conformance/table.ts";

const [results = ""] = process.argv.slice(2);
const { testResults } = JSON.parse(readFileSync(results, "utf8")) as {
  testResults: { assertionResults: { ancestorTitles: string[]; title: string; status: string }[] }[];
};
const passed: Results = new Set(
  testResults.flatMap(({ assertionResults }) =>
    assertionResults
      .filter(({ status }) => status === "passed")
      .map(({ ancestorTitles, title }) => `${ancestorTitles.at(-1)} ${title}`),
  ),
);
writeFileSync("docs/conformance.md", conformanceTable(passed, availableMajors()));
