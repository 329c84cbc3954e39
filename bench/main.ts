/** `npm run bench -- [--quick] [--only SECTION,…] [--files-on 12,15] [--json FILE]`: the figures of the README, beside the built-in worker's. */
import { writeFileSync } from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";
import { ensureServerBinaries } from "../src/sandbox/binaries.ts";
import { disposeAll } from "../src/sandbox/workspace.ts";
import type { Scope } from "./scope.ts";
import { type BusyPart, busy } from "./sections/busy.ts";
import { files } from "./sections/files.ts";
import { many } from "./sections/many.ts";
import { promotion } from "./sections/promotion.ts";
import { protect } from "./sections/protect.ts";
import { stretch } from "./sections/stretch.ts";
import { MAJORS } from "./system.ts";
import { markdown, type SectionResult } from "./table.ts";

const SECTIONS = ["protect", "staleness", "cost", "promotion", "stretch", "many", "files"] as const;

const { values } = parseArgs({
  options: {
    quick: { type: "boolean" },
    only: { type: "string" },
    json: { type: "string" },
    "files-on": { type: "string", default: "12,15" },
  },
});
const chosen = new Set<string>(values.only?.split(",") ?? SECTIONS);
for (const name of chosen)
  if (!SECTIONS.some((section) => section === name))
    throw new Error(`no section "${name}"; there are: ${SECTIONS.join(", ")}`);

const started = performance.now();
const scope: Scope = {
  quick: values.quick ?? false,
  say: (text) =>
    process.stderr.write(
      `[${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s, load ${os.loadavg()[0]?.toFixed(1)}] ${text}\n`,
    ),
};

/** Majors on which guards come by their files: 12 to 15. */
const fileMajors = values["files-on"].split(",").map(Number);
for (const major of fileMajors)
  if (![12, 13, 14, 15].includes(major))
    throw new Error(`--files-on takes majors from 12 to 15, not ${major}`);

const results: SectionResult[] = [];
const parts = (["staleness", "cost"] as const).filter((part: BusyPart) => chosen.has(part));
const work: [boolean, () => Promise<SectionResult | SectionResult[]>][] = [
  [chosen.has("protect"), () => protect(scope)],
  [parts.length > 0, () => busy(scope, parts)],
  [chosen.has("promotion"), () => promotion(scope)],
  [chosen.has("stretch"), () => stretch(scope)],
  [chosen.has("many"), () => many(scope)],
  [chosen.has("files"), () => files(scope, fileMajors)],
];
try {
  const majors = [...Object.values(MAJORS), ...(chosen.has("files") ? fileMajors : [])];
  for (const major of majors) await ensureServerBinaries(major);
  for (const [wanted, measure] of work) {
    if (!wanted) continue;
    const measured = [await measure()].flat();
    results.push(...measured);
    scope.say(`\n${markdown(measured)}`);
    // at once: what a later section breaks off is not lost with it
    if (values.json) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
  }
  process.stdout.write(`${header()}\n\n${markdown(results)}`);
} finally {
  await disposeAll();
}

/** On what it was measured. */
function header(): string {
  const cpu = os.cpus();
  const folder = process.env.PG_SLOTSYNC_WORK ? "PG_SLOTSYNC_WORK" : "the system's temporary folder";
  return `${cpu.length} cores (${cpu[0]?.model}), Node ${process.versions.node}; server data and the sidecar's state in ${folder}, fsync on, server defaults but for sizes${scope.quick ? "; QUICK: short windows, no figures to quote" : ""}`;
}
