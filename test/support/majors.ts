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
