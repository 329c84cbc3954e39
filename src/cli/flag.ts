/** `slotsync flag`, `unflag` and `flags`: which slots are to survive a failover, said on the primary. */
import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { type FlagStep, type FlagView, planFlag, whyNoName } from "../domain/flag.ts";
import { REGISTRY_TABLE } from "../domain/registry.ts";
import {
  assertTrusted,
  type FlagAccess,
  runCommands,
  runSql,
  statementsFor,
  withFlags,
} from "../sync/flags.ts";
import { CommandError, EXIT } from "./exit.ts";
import type { Output } from "./output.ts";
import { configOf } from "./settings.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { printable, table } from "./terminal.ts";

export function addFlag(program: Command, output: Output, setExit: (code: number) => void): void {
  addChange(program, true, output, setExit)
    .description("flag slots on the primary: they are to survive a failover")
    .addHelpText(
      "after",
      `
Before 17 it writes to a small table of its own on the primary (${REGISTRY_TABLE}, made with the first flag), which
replicates to every standby; from 17 on it sets the server's own flag. The SQL is shown first. Flags and slots.include
together choose the failover slots, slots.exclude wins over both.

Exit codes: 0 all are flagged now, or were; 1 one is not, the output says why; 2 the configuration or the command line
is wrong.

Examples:
  slotsync flag billing app_orders
  slotsync flag billing --print-sql | psql -d postgres -U postgres`,
    );
}

export function addUnflag(program: Command, output: Output, setExit: (code: number) => void): void {
  addChange(program, false, output, setExit)
    .description("take the flag from slots: on the standbys they are dropped, unless a rule chooses them")
    .addHelpText(
      "after",
      `
The slots on the primary stay as they are.

Exit codes: 0 none of them is flagged now; 1 one still is, the output says why; 2 the configuration or the command line
is wrong.

Examples:
  slotsync unflag app_old
  slotsync unflag app_old --print-sql`,
    );
}

interface ChangeOptions {
  printSql?: boolean;
}

function addChange(program: Command, on: boolean, output: Output, setExit: (code: number) => void): Command {
  return program
    .command(on ? "flag" : "unflag")
    .argument("<name...>", "names of slots")
    .option("--print-sql", "only print the SQL, complete, for you to run; changes nothing")
    .action(async (names: string[], options: ChangeOptions, command: Command) => {
      const config = configOf(command, output);
      for (const name of names) {
        const why = whyNoName(name);
        if (why !== null) throw new CommandError(`"${name}" ${why}`, EXIT.cannotTell);
      }
      const unique = [...new Set(names)];
      setExit(
        await onPrimary(config, on ? "flag" : "unflag", output, (access) =>
          change(access, unique, on, options, output),
        ),
      );
    });
}

async function onPrimary(
  config: Config,
  command: string,
  output: Output,
  use: (access: FlagAccess) => Promise<number>,
): Promise<number> {
  const stopping = stopOnSignals();
  const warn = (warning: string) => output.tell(`warning: ${warning}`);
  try {
    return await withFlags(config, command, stopping.signal, warn, use);
  } catch (error) {
    if (stopping.by !== null) return signalExit(stopping);
    throw error;
  } finally {
    stopping.release();
  }
}

async function change(
  access: FlagAccess,
  names: readonly string[],
  on: boolean,
  { printSql = false }: ChangeOptions,
  output: Output,
): Promise<number> {
  const steps = names.map((name) => planFlag(name, on, access.view));
  const { sql, commands } = statementsFor(steps, on, access, printSql);
  await assertTrusted(access, sql);
  if (printSql) {
    for (const line of [...inOneTransaction(sql), ...commands.map(({ text }) => text)])
      output.print(`${line}\n`);
    output.tell(howToRun(access, sql.length > 0, commands.length > 0));
    return tellSteps(
      steps.filter(({ refusal }) => refusal !== null),
      new Map(),
      output.tell,
    );
  }
  if (sql.length + commands.length > 0) {
    output.print(printable(`on ${access.target}:`).concat("\n"));
    for (const line of [...sql, ...commands.map(({ text }) => text)])
      output.print(`  ${line.replaceAll("\n", "\n  ")}\n`);
  }
  await runSql(access, sql);
  const failures = await runCommands(access, commands);
  return tellSteps(steps, failures, (line) => output.print(`${line}\n`));
}

/** A registry that is there, and empty for a moment, would have the slots dropped that are about to be flagged again. */
export function inOneTransaction(sql: readonly string[]): readonly string[] {
  return sql.length > 1 ? ["BEGIN;", ...sql, "COMMIT;"] : sql;
}

function howToRun({ database }: FlagAccess, sql: boolean, commands: boolean): string {
  const parts = [
    ...(sql ? [`run it on the primary, in database "${database}", as a role that may`] : []),
    ...(commands
      ? [
          `ALTER_REPLICATION_SLOT is a command of the replication protocol: psql "dbname=${database} replication=database", one command each, while the slot is idle`,
        ]
      : []),
  ];
  return printable(parts.join("; ") || "there is nothing to run");
}

function tellSteps(
  steps: readonly FlagStep[],
  failures: ReadonlyMap<string, string>,
  tell: (line: string) => void,
): number {
  let code: number = EXIT.ok;
  for (const { name, refusal, told } of steps) {
    const why = refusal ?? failures.get(name);
    if (why !== undefined) code = EXIT.no;
    tell(printable(why === undefined ? `${name}: ${told}` : `${name}: not done: ${why}`));
  }
  return code;
}

export function addFlags(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("flags")
    .description("which slots are flagged on the primary")
    .option("--json", "print them as JSON")
    .addHelpText(
      "after",
      `
Whether a flagged slot is a failover slot on this standby, and how it is protected, slotsync status says.

Exit codes: 0 told; 1 the flags cannot be read; 2 the configuration or the command line is wrong.

Examples:
  slotsync flags
  slotsync flags --json | jq -r '.flags[].name'`,
    )
    .action(async ({ json = false }: { json?: boolean }, command: Command) => {
      const config = configOf(command, output);
      setExit(
        await onPrimary(config, "flags", output, async ({ view, target, database }) => {
          const flags = listed(view);
          if (json) output.json({ primary: target, database, registry: view.flags !== null, flags });
          else output.print(formatFlags(flags, target, output));
          return EXIT.ok;
        }),
      );
    });
}

interface ListedFlag {
  name: string;
  /** The server's own flag, and the registry's. */
  server: boolean;
  registry: boolean;
  /** The slot, or null while there is none. */
  slot: { plugin: string; database: string | null; active: boolean } | null;
  flaggedAt: string | null;
  flaggedBy: string | null;
}

function listed({ slots, flags }: FlagView): ListedFlag[] {
  const rows = new Map((flags ?? []).map((flag) => [flag.name, flag]));
  const logical = slots.filter(({ plugin, temporary }) => plugin !== null && !temporary);
  const names = new Set([
    ...rows.keys(),
    ...logical.filter(({ failover }) => failover).map(({ name }) => name),
  ]);
  return [...names].toSorted().map((name) => {
    const slot = logical.find((each) => each.name === name);
    const row = rows.get(name);
    return {
      name,
      server: slot?.failover ?? false,
      registry: row !== undefined,
      slot: slot
        ? { plugin: slot.plugin ?? "", database: slot.database, active: slot.activePid !== null }
        : null,
      flaggedAt: row?.flaggedAt ?? null,
      flaggedBy: row?.flaggedBy ?? null,
    };
  });
}

function formatFlags(flags: readonly ListedFlag[], target: string, output: Output): string {
  if (flags.length === 0) return printable(`no slot is flagged on ${target}`).concat("\n");
  const columns = ["NAME", "FLAG", "SLOT", "SINCE", "BY"].map((title) => ({ title }));
  const rows = flags.map(({ name, server, registry, slot, flaggedAt, flaggedBy }) =>
    [
      name,
      [...(server ? ["server"] : []), ...(registry ? ["registry"] : [])].join(", "),
      slot ? `${slot.plugin} in ${slot.database}` : "there is none",
      flaggedAt ?? "-",
      flaggedBy ?? "-",
    ].map((text) => ({ text })),
  );
  return table(columns, rows, output.paint);
}
