/** The table of figures. */

interface Row {
  figure: string;
  ours: string;
  builtIn: string;
  /** what issue and README promise, or "" */
  target: string;
  /** null where nothing is promised */
  reached: boolean | null;
}

export interface SectionResult {
  title: string;
  /** what the two columns of figures are here, when not what the table's head says */
  columns?: { ours: string; builtIn: string };
  rows: Row[];
  /** how it was measured, and what was noticed */
  notes: string[];
  /** the numbers behind it, for --json */
  raw: unknown;
}

export function markdown(results: readonly SectionResult[]): string {
  const lines = ["| | pg-slotsync, 16 | built-in, 17 | target | |", "| --- | --- | --- | --- | --- |"];
  for (const { title, columns, rows } of results) {
    lines.push(`| **${title}** | ${columns?.ours ?? ""} | ${columns?.builtIn ?? ""} | | |`);
    for (const { figure, ours, builtIn, target, reached } of rows) {
      const verdict = reached === null ? "" : reached ? "reached" : "**not reached**";
      lines.push(`| ${figure} | ${ours} | ${builtIn} | ${target} | ${verdict} |`);
    }
  }
  const notes = results.flatMap(({ title, notes }) => notes.map((note) => `- ${title}: ${note}`));
  return `${lines.join("\n")}\n\n${notes.join("\n")}\n`;
}
