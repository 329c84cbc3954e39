/** `slotsync check`: one line and an exit code. */
import type { Command } from "commander";
import { ConfigError } from "../config/load.ts";
import { suggest } from "../config/suggest.ts";
import { ACCEPTABLE, answerAccepting, type Leniency, whyNotAcceptable } from "../domain/accept.ts";
import type { Answer } from "../domain/assess.ts";
import { describeError } from "../pg/errors.ts";
import { assess, type Reading } from "../sync/assess.ts";
import { CommandError, EXIT } from "./exit.ts";
import type { Output } from "./output.ts";
import { settingsOf, standbyName } from "./settings.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { printable } from "./terminal.ts";

interface CheckOptions {
  slot?: string;
  json?: boolean;
  accept?: string[];
  allowEmpty?: boolean;
}

export function addCheck(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("check")
    .description("is this standby failover-ready? one line, and an exit code for scripts")
    .option("--slot <name>", "ask about one slot only")
    .option(
      "--accept <reason...>",
      "0 also where this reason of a slot, or code of a problem, stands against it; may be repeated",
    )
    .option("--allow-empty", "0 also where the primary has no logical slot, but for what slots.exclude names")
    .option("--json", "print {code, line, accepted, status} as JSON")
    .addHelpText(
      "after",
      `
Asks both servers; when the primary is dead, answers from the journal of the sidecar as far as that can be trusted.
Never waits longer than the timeouts of the configuration.

Exit codes: 0 ready: a failover to this standby now would lose no change for any subscriber; 1 not ready, the line
says why; 2 cannot tell, and so must not be taken for ready (also: the configuration or the command line is wrong).
What --accept names counts as 0; the line then says what was accepted and what it may cost.

Examples:
  slotsync check -c slotsync.yaml && pg_ctl promote
  slotsync check -c slotsync.yaml --slot billing
  slotsync check -c slotsync.yaml --accept wal_or_rows_removed restart_pending --allow-empty
  slotsync check -c slotsync.yaml --json | jq -r .line`,
    )
    .action(async (options: CheckOptions, command: Command) => {
      setExit(await check(command, options, output));
    });
}

async function check(command: Command, options: CheckOptions, output: Output): Promise<number> {
  try {
    const { config } = settingsOf(command);
    const leniency = leniencyOf(options);
    const stopping = stopOnSignals();
    const warnings: string[] = [];
    const reading = await assess(config, "check", stopping.signal, (warning) => warnings.push(warning));
    stopping.release();
    if (stopping.signal.aborted) return signalExit(stopping);
    for (const warning of warnings) output.tell(`warning: ${warning}`);
    const result = checkAnswer(reading, options.slot, leniency);
    report(result, { standby: standbyName(config), ...reading.status }, options, output);
    return result.code;
  } catch (error) {
    // whatever went wrong: nobody may take it for "not ready", nor for "ready"
    const plain = error instanceof ConfigError || error instanceof CommandError;
    const line = plain ? error.message : `cannot tell: ${describeError(error)}`;
    if (options.json) output.json({ code: EXIT.cannotTell, line, status: null });
    else output.tell(line);
    return EXIT.cannotTell;
  }
}

/** Throws CommandError for a name that cannot be accepted. */
export function leniencyOf({ accept = [], allowEmpty = false }: CheckOptions): Leniency {
  for (const name of accept) {
    const why = whyNotAcceptable(name);
    if (why === null) continue;
    const meant = suggest(name, ACCEPTABLE);
    const fix = meant === undefined || meant === name ? "there are" : `did you mean ${meant}? There are`;
    throw new CommandError(`--accept ${name}: ${why}; ${fix} ${ACCEPTABLE.join(", ")}`, EXIT.cannotTell);
  }
  return { accept: new Set(accept), allowEmpty };
}

/** The answer, and what was probably meant by a name that there is not. */
export function checkAnswer(
  reading: Pick<Reading, "status" | "certain">,
  slotName: string | undefined,
  leniency: Leniency = { accept: new Set(), allowEmpty: false },
): Answer {
  const result = answerAccepting(reading, slotName, leniency);
  const names = reading.status.slots.map(({ name }) => name);
  if (slotName === undefined || names.includes(slotName) || result.code === 2) return result;
  if (reading.status.role !== "standby") return result;
  const meant = suggest(slotName, names);
  return meant === undefined ? result : { ...result, line: `${result.line}; did you mean "${meant}"?` };
}

function report(result: Answer, status: object, options: CheckOptions, output: Output): void {
  if (options.json) {
    output.json({ ...result, status });
    return;
  }
  const style = ({ 0: "green", 1: "red", 2: "yellow" } as const)[result.code];
  output.print(`${output.paint(style, printable(result.line))}\n`);
}
