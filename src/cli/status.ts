/** `slotsync status`: how things stand, for people and for machines. */
import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { sleep } from "../pg/sleep.ts";
import { assess, type Reading } from "../sync/assess.ts";
import { EXIT } from "./exit.ts";
import { formatStatus } from "./format-status.ts";
import type { Output } from "./output.ts";
import { configOf, standbyName } from "./settings.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";

const WATCH_MS = 1_000;
/** Home, and clear what is below: less flicker than clearing first. */
const HOME = "\u001b[H";
const CLEAR_LINE = "\u001b[K";
const CLEAR_BELOW = "\u001b[J";

interface StatusOptions {
  json?: boolean;
  watch?: boolean;
}

export function addStatus(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("status")
    .description("how every failover slot is protected on this standby")
    .option("--json", "print the status as JSON")
    .option("-w, --watch", "print it anew every second until Ctrl-C; with --json one object a line")
    .addHelpText(
      "after",
      `
Exit codes: 0 told how things stand (ready or not: that is what check is for); 2 cannot tell, or the configuration
or the command line is wrong.

Examples:
  slotsync status -c slotsync.yaml --watch
  slotsync status -c slotsync.yaml --json | jq '.slots[] | select(.protection == "waiting")'`,
    )
    .action(async (options: StatusOptions, command: Command) => {
      setExit(await status(configOf(command, output), options, output));
    });
}

async function status(config: Config, options: StatusOptions, output: Output): Promise<number> {
  const stopping = stopOnSignals();
  const warn = (warning: string) => output.tell(`warning: ${warning}`);
  try {
    for (let first = true; ; first = false) {
      const reading = await assess(config, "status", stopping.signal, first ? warn : () => {});
      // Ctrl-C is how a watch ends; before there was anything to see it is an interruption
      if (stopping.signal.aborted) return options.watch ? EXIT.ok : signalExit(stopping);
      show(config, reading, options, output, first);
      if (!options.watch) return reading.certain ? EXIT.ok : EXIT.cannotTell;
      await sleep(WATCH_MS, stopping.signal);
      if (stopping.signal.aborted) return EXIT.ok;
    }
  } finally {
    stopping.release();
  }
}

function show(
  config: Config,
  reading: Reading,
  options: StatusOptions,
  output: Output,
  first: boolean,
): void {
  const standby = standbyName(config);
  if (options.json) output.json({ standby, ...reading.status });
  else output.print(screen(formatStatus({ standby, ...reading }, Date.now(), output.paint)));

  function screen(text: string): string {
    if (!options.watch) return text;
    if (!output.terminal) return first ? text : `\n${text}`;
    const cleared = text.replaceAll("\n", `${CLEAR_LINE}\n`);
    return `${first ? HOME + CLEAR_BELOW : HOME}${cleared}${CLEAR_BELOW}`;
  }
}
