import { describe } from "vitest";

/** The PostgreSQL majors that this test run uses: `PG_MAJORS=11,16 npm test`; 16 when not said. */
export function testedMajors(): number[] {
  const majors = (process.env.PG_MAJORS ?? "16")
    .split(/[\s,]+/)
    .filter(Boolean)
    .map(Number);
  if (majors.length === 0 || majors.some((major) => !Number.isInteger(major))) {
    throw new Error(`PG_MAJORS must be a list of majors such as "11,16", not "${process.env.PG_MAJORS}"`);
  }
  return majors;
}

/** The majors on which slots come to a standby by their files. */
export const FILE_MAJORS: readonly number[] = [11, 12, 13, 14, 15];

/** Those of them that this test run uses: the ones that PG_MAJORS names, all of them when it is not set. */
export function fileMajors(): number[] {
  if (process.env.PG_MAJORS === undefined) return [...FILE_MAJORS];
  return testedMajors().filter((major) => FILE_MAJORS.includes(major));
}

/** A block of tests for each of these majors; those that this run does not use show as skipped, never as passed. */
export function describeEach(
  majors: readonly number[],
  used: readonly number[],
  tests: (major: number) => void,
): void {
  for (const major of majors)
    describe.skipIf(!used.includes(major))(`PostgreSQL ${major}`, () => tests(major));
}

/** Those of these majors that this test run uses: the ones that PG_MAJORS names, all of them when it is not set. */
export function usedOf(majors: readonly number[]): number[] {
  if (process.env.PG_MAJORS === undefined) return [...majors];
  return testedMajors().filter((major) => majors.includes(major));
}
