/** `slotsync resync`: drop a copy of the sidecar's whose evidence is incomplete, so that it is made again. */
import type { Command } from "commander";
import { releaseSlot } from "../apply/release.ts";
import type { Config } from "../config/load.ts";
import type { JournalState } from "../domain/journal.ts";
import type { StandbyView } from "../domain/observation.ts";
import { isOurs } from "../domain/ownership.ts";
import { type StandbySlot, slotNamed } from "../domain/slot.ts";
import { readJournal } from "../journal/store.ts";
import { observeStandby } from "../observe/standby.ts";
import { linkOptionsOf } from "../sync/from-config.ts";
import { StandbyLink } from "../sync/links.ts";
import { CommandError, EXIT } from "./exit.ts";
import type { Output } from "./output.ts";
import { configOf } from "./settings.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { printable } from "./terminal.ts";

export function addResync(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("resync")
    .argument("<names...>", "the failover slots to make again on this standby")
    .description(
      "drop copies of failover slots here that are not ready, so that the sidecar makes them again",
    )
    .option("--dry-run", "only say what would be done")
    .addHelpText(
      "after",
      `
For a slot that stays not ready because something about its copy here cannot be proven any more, such as
no_consistent_snapshot for a slot that stands still. The copy is dropped; a running sidecar then makes it again: by SQL
on 16 and later, and before out of a fresh file of the primary's, at the next start of this standby. A slot that is
ready, that is in use, or that is not the sidecar's is left alone (slotsync release is for the last).

Exit codes: 0 done; 1 something was refused, the output says why; 2 the configuration or the command line is wrong.

Examples:
  slotsync resync -c slotsync.yaml orders`,
    )
    .action(async (names: string[], options: { dryRun?: boolean }, command: Command) => {
      const config = configOf(command, output);
      const stopping = stopOnSignals();
      try {
        setExit(await resync(config, names, options.dryRun ?? false, stopping.signal, output));
      } catch (error) {
        if (stopping.by === null) throw error;
        setExit(signalExit(stopping));
      } finally {
        stopping.release();
      }
    });
}

async function resync(
  config: Config,
  names: readonly string[],
  dryRun: boolean,
  signal: AbortSignal,
  output: Output,
): Promise<number> {
  const options = linkOptionsOf(config, "resync", signal, (warning) => output.tell(`warning: ${warning}`));
  const standby = new StandbyLink(config.standby.conn, options, false);
  try {
    const { view } = await observeStandby(await standby.control());
    if (!view.inRecovery)
      throw new CommandError("this node is a primary: slots are made again on standbys only", EXIT.no);
    const journal = await readJournal(config.stateDirectory);
    if (journal === null)
      throw new CommandError(`there is no journal in ${config.stateDirectory}: start slotsync run`, EXIT.no);
    let refused = false;
    for (const name of new Set(names)) {
      const local = found(name, view, journal);
      if (typeof local === "string") {
        refused = true;
        output.print(`${printable(`refused: ${name} (${local})`)}\n`);
        continue;
      }
      if (!dryRun) await releaseSlot(await standby.control(), name, local.restartLsn);
      output.print(
        `${printable(`${dryRun ? "would drop" : "dropped"}: ${name} (a running sidecar makes it again${view.serverVersionNum < 160_000 ? ", at the next start of this standby" : ""})`)}\n`,
      );
    }
    return refused ? EXIT.no : EXIT.ok;
  } finally {
    await standby.close();
  }
}

/** Our slot here, or why it is left alone (I7, I19). */
function found(name: string, view: StandbyView, journal: JournalState): StandbySlot | string {
  const local = slotNamed(view.slots, name);
  if (!local) return "there is no such slot on this standby: a running sidecar makes it where it can";
  if (local.activePid !== null) return `it is in use, by process ${local.activePid}`;
  const record = journal.slots.get(name);
  if (!record || !isOurs(local, record))
    return "the journal does not say that it is the sidecar's own: slotsync release drops it";
  if (record.protection === "synced") return "it is ready: there is nothing to mend";
  return local;
}
