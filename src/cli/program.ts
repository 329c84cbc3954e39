/** The command line: what there is, what was meant, and how it ends. */
import { Command, CommanderError } from "commander";
import { ConfigError } from "../config/load.ts";
import { suggest } from "../config/suggest.ts";
import { describeError } from "../pg/errors.ts";
import { addCheck } from "./check.ts";
import { addDemo } from "./demo.ts";
import { CommandError, EXIT } from "./exit.ts";
import { addFinish } from "./finish.ts";
import { addFlag, addFlags, addUnflag } from "./flag.ts";
import { type Output, standardOutput } from "./output.ts";
import { addRelease } from "./release.ts";
import { addResync } from "./resync.ts";
import { addRun } from "./run.ts";
import { addSeed } from "./seed.ts";
import { addSettings } from "./settings.ts";
import { addStage, addUnstage } from "./stage.ts";
import { addStatus } from "./status.ts";
import { addSync } from "./sync.ts";
import { ownVersion } from "./version.ts";

/** What people type who know other tools. */
const OTHER_WORDS = new Map(
  Object.entries({
    start: "run",
    daemon: "run",
    serve: "run",
    server: "run",
    agent: "run",
    once: "sync",
    plan: "sync --dry-run",
    "dry-run": "sync --dry-run",
    list: "status",
    ls: "status",
    show: "status",
    slots: "status",
    watch: "status --watch",
    health: "check",
    ready: "check",
    readiness: "check",
    promote: "finish",
    promoted: "finish",
    failover: "finish",
    switchover: "finish",
    report: "finish",
    mark: "flag",
    unmark: "unflag",
    prepare: "stage",
    provision: "stage",
    bootstrap: "seed",
    init: "seed",
    drop: "release",
    cleanup: "release",
  }),
);

/** Runs the command line and returns the exit code. Never throws. */
export async function main(args: readonly string[]): Promise<number> {
  const output = standardOutput();
  let exitCode: number = EXIT.ok;
  const program = createProgram(output, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...args], { from: "user" });
    return exitCode;
  } catch (error) {
    return exitOf(error, output);
  }
}

function exitOf(error: unknown, output: Output): number {
  // commander has said already what is wrong
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.cannotTell;
  if (error instanceof ConfigError) {
    output.tell(error.message);
    return EXIT.cannotTell;
  }
  output.tell(describeError(error));
  return error instanceof CommandError ? error.exitCode : EXIT.no;
}

/** All commands; `setExit` is given the exit code of the one that ran. */
export function createProgram(output: Output, setExit: (code: number) => void): Command {
  const program = new Command("slotsync");
  addSettings(program)
    .description("Keeps logical replication slots alive across PostgreSQL failover.")
    .version(ownVersion(), "-V, --version")
    .configureHelp({ showGlobalOptions: true })
    .showHelpAfterError("(slotsync --help says what there is)")
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(withSuggestion(text, program)) })
    .addHelpText(
      "after",
      `
Every key of the configuration can also be given in the environment: SLOTSYNC_ and its path in capitals, such as
SLOTSYNC_STANDBY_DSN for standby.dsn. The command line wins over the environment, and that over the file.

Exit codes: 0 yes, or done; 1 no, or it went wrong; 2 cannot tell, or the configuration or the command line is wrong.
slotsync help <command> says what they mean there.

Examples:
  slotsync demo
  slotsync run --config /etc/slotsync.yaml
  slotsync check --config /etc/slotsync.yaml`,
    );
  addRun(program, setExit);
  addSync(program, output, setExit);
  addStatus(program, output, setExit);
  addCheck(program, output, setExit);
  addFinish(program, output, setExit);
  addFlag(program, output, setExit);
  addUnflag(program, output, setExit);
  addFlags(program, output, setExit);
  addStage(program, output, setExit);
  addUnstage(program, output, setExit);
  addSeed(program, output, setExit);
  addRelease(program, output, setExit);
  addResync(program, output, setExit);
  addDemo(program, setExit);
  return program;
}

/** Commander suggests what is spelt nearly the same; this adds what is called otherwise elsewhere, or is further off. */
function withSuggestion(text: string, program: Command): string {
  const command = /unknown command '([^']+)'/.exec(text)?.[1];
  const option = /unknown option '([^']+)'/.exec(text)?.[1];
  const otherWord = command && OTHER_WORDS.get(command.toLowerCase());
  if (otherWord) return suggesting(text.replace(/\(Did you mean [^\n]*\n/, ""), otherWord);
  if (/did you mean/i.test(text)) return text;
  if (command)
    return suggesting(
      text,
      suggest(
        command,
        program.commands.map((each) => each.name()),
      ),
    );
  return option ? suggesting(text, meantOption(option, program)) : text;
}

function suggesting(text: string, meant: string | undefined): string {
  return meant === undefined ? text : text.replace(/\n/, `\n(Did you mean ${meant}?)\n`);
}

function meantOption(word: string, program: Command): string | undefined {
  const options = [program, ...program.commands].flatMap((command) => command.options);
  return suggest(word.split("=")[0] ?? word, new Set(options.flatMap(({ long }) => long ?? [])));
}
