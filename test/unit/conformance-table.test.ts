import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ALL } from "../conformance/catalogue.ts";
import { conformanceTable } from "../conformance/table.ts";

const everything = new Set(
  ALL.flatMap(({ title, majors }) => majors.map((major) => `PostgreSQL ${major} ${title}`)),
);

test("docs/conformance.md is of the scenarios as they are now (npm run conformance)", () => {
  expect(readFileSync("docs/conformance.md", "utf8")).toBe(conformanceTable(everything));
});

test("no table is made of a run in which one has not passed", () => {
  const [one = ""] = everything;
  expect(() => conformanceTable(new Set([...everything].filter((each) => each !== one)))).toThrow(
    /not passed/,
  );
});
