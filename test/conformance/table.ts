/** The table of docs/conformance.md. */
import { ALL, MAJORS, type Scenario } from "./catalogue.ts";

/** `PostgreSQL <major> <title>` of each test that passed. */
export type Results = ReadonlySet<string>;

const HEAD = `# Conformance

PostgreSQL's own tests of its slot-sync worker (17 and later) say what one can expect of it. These are the same expectations, asked of
pg-slotsync on real servers of every major. The table is made from a run of the tests in \`test/conformance\`:

    npm run conformance

`;

/** Markdown; throws when a scenario that applies to a major of this machine has not passed there. */
export function conformanceTable(passed: Results, available: readonly number[] = MAJORS): string {
  const notes: string[] = [];
  const cell = ({ title, majors, elsewhere }: Scenario, major: number): string => {
    if (majors.includes(major)) {
      if (!available.includes(major)) throw new Error(`PostgreSQL ${major} does not run on this machine`);
      if (!passed.has(`PostgreSQL ${major} ${title}`)) throw new Error(`not passed on ${major}: ${title}`);
      return "yes";
    }
    if (elsewhere === null) return "–";
    if (!notes.includes(elsewhere)) notes.push(elsewhere);
    return `– [${notes.indexOf(elsewhere) + 1}]`;
  };
  const rows = ALL.map(
    (each) => `| ${each.title} | ${MAJORS.map((major) => cell(each, major)).join(" | ")} |`,
  );
  return `${HEAD}| | ${MAJORS.join(" | ")} |
| --- |${" --- |".repeat(MAJORS.length)}
${rows.join("\n")}

– does not apply.${notes.map((note, index) => ` [${index + 1}] ${note}.`).join("")}
`;
}
