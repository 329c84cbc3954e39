/** `slotsync release`: drop slots of this standby that nobody uses, such as those that a former primary is left with. */
import type { Command } from "commander";
import { releaseSlot } from "../apply/release.ts";
import type { Config } from "../config/load.ts";
import { nowOn, onThisBoot } from "../domain/clock.ts";
import { emptyJournal, type JournalState } from "../domain/journal.ts";
import { leftoversOf } from "../domain/leftovers.ts";
import type { Lsn } from "../domain/lsn.ts";
import { isOwnSlotName } from "../domain/names.ts";
import type { PrimaryView, StandbyView } from "../domain/observation.ts";
import { isOurs } from "../domain/ownership.ts";
import { whyLacksUnknown } from "../domain/prerequisites.ts";
import { slotNamed } from "../domain/slot.ts";
import { readLock } from "../journal/lock.ts";
import { readJournal } from "../journal/store.ts";
import { systemClock } from "../observe/clock.ts";
import { observeStandby } from "../observe/standby.ts";
import { describeError } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { STANDBY_LOCK_HOLDER } from "../pg/sql.ts";
import { linkOptionsOf } from "../sync/from-config.ts";
import { PrimaryLink, StandbyLink } from "../sync/links.ts";
import { observeBoth, PrimaryUnreachableError } from "../sync/observe-both.ts";
import { CommandError, EXIT } from "./exit.ts";
import type { Output } from "./output.ts";
import { configOf } from "./settings.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { formatBytes, printable } from "./terminal.ts";

interface ReleaseOptions {
  allInactive?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

interface Released {
  name: string;
  outcome: "released" | "would_release" | "refused";
  detail: string | null;
}

export function addRelease(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("release")
    .argument("[names...]", "the slots to drop on this standby")
    .description("drop slots of this standby that nobody uses and that hold WAL there")
    .option("--all-inactive", "all that status reports as left over")
    .option("--dry-run", "only say what would be dropped")
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      `
For what a former primary is left with: the physical slots of its former standbys, logical slots that the primary does
not have, and, by its name only, a slot that is in the way of a failover slot (name_conflict). Works beside a running
sidecar, whose own slots it leaves alone; where no sidecar runs any more those go by their names too. Never drops a slot
that is in use, and nothing on a primary.

Exit codes: 0 released, or nothing to release; 1 something was refused, the output says why; 2 no slot was named, or the
configuration or the command line is wrong.

Examples:
  slotsync release -c slotsync.yaml --all-inactive --dry-run
  slotsync release -c slotsync.yaml db2 db3`,
    )
    .action(async (names: string[], options: ReleaseOptions, command: Command) => {
      const config = configOf(command, output);
      if (names.length === 0 && !options.allInactive)
        throw new CommandError(
          "name the slots to release, or give --all-inactive (with --dry-run to see which)",
          EXIT.cannotTell,
        );
      const stopping = stopOnSignals();
      try {
        const results = await release(config, names, options, stopping.signal, output);
        tell(results, options, output);
        setExit(results.some(({ outcome }) => outcome === "refused") ? EXIT.no : EXIT.ok);
      } catch (error) {
        if (stopping.by === null) throw error;
        setExit(signalExit(stopping));
      } finally {
        stopping.release();
      }
    });
}

async function release(
  config: Config,
  names: readonly string[],
  { allInactive = false, dryRun = false }: ReleaseOptions,
  signal: AbortSignal,
  output: Output,
): Promise<Released[]> {
  const warn = (warning: string) => output.tell(`warning: ${warning}`);
  const options = linkOptionsOf(config, "release", signal, warn);
  const standby = new StandbyLink(config.standby.conn, options, false);
  const primary = new PrimaryLink(config.primary, config.standby.conn.database ?? "postgres", options);
  try {
    const known = await observeStandby(await standby.control());
    if (!known.view.inRecovery)
      throw new CommandError("this node is a primary: its slots are dropped by its operator alone", EXIT.no);
    const recorded = async () => (await readJournal(config.stateDirectory)) ?? emptyJournal("00000000");
    const seen = allInactive
      ? await observe(standby, primary, known, await recorded(), warn)
      : { here: known.view, there: null };
    const journal = await recorded();
    const all = allInactive ? leftoversOf(seen.there, seen.here, journal).map(({ name }) => name) : [];
    const results: Released[] = [];
    const keeper = await keeperOf(config, await standby.control());
    for (const name of new Set([...names, ...all])) {
      const found = find(name, seen.here, journal, keeper);
      if (typeof found === "string") {
        results.push({ name, outcome: "refused", detail: found });
        continue;
      }
      const detail = `${found.kind}, it held ${formatBytes(Number(seen.here.replayLsn - (found.restartLsn ?? seen.here.replayLsn)))} of WAL`;
      try {
        if (!dryRun) await releaseSlot(await standby.control(), name, found.restartLsn);
        results.push({ name, outcome: dryRun ? "would_release" : "released", detail });
      } catch (error) {
        results.push({ name, outcome: "refused", detail: describeError(error) });
      }
    }
    return results;
  } finally {
    await Promise.all([standby.close(), primary.close()]);
  }
}

async function observe(
  standby: StandbyLink,
  primary: PrimaryLink,
  known: Awaited<ReturnType<typeof observeStandby>>,
  journal: JournalState,
  warn: (warning: string) => void,
): Promise<{ here: StandbyView; there: PrimaryView | null }> {
  try {
    const seen = await observeBoth(standby, primary, known, null);
    const here = seen.look.view;
    // a slot that the wrong server lacks, or the right one still makes, is not left over
    const clock = systemClock();
    const { journal: timed, axis } = onThisBoot(journal, clock);
    const why = whyLacksUnknown(seen.primary, here, timed, nowOn(axis, clock), primary.problems);
    if (why !== null) warn(`logical slots are left out: ${why}`);
    return { here, there: why === null ? seen.primary : null };
  } catch (error) {
    if (!(error instanceof PrimaryUnreachableError)) throw error;
    warn(`logical slots are left out, for ${describeError(error)}`);
    return { here: known.view, there: null };
  }
}

/** The sidecar that keeps our slots here, as it is called in a sentence; null when there is none left. */
async function keeperOf({ stateDirectory }: Config, control: PgSession): Promise<string | null> {
  const lock = await readLock(stateDirectory);
  if (lock !== null) return `process ${lock.pid} on ${lock.host}`;
  const [holder] = await control.query<{ application_name: string }>(STANDBY_LOCK_HOLDER);
  return holder ? `"${holder.application_name}"` : null;
}

/** The slot, or why it is not to be touched. */
function find(
  name: string,
  { slots, physicalSlots }: StandbyView,
  journal: JournalState,
  keeper: string | null,
): { kind: "physical" | "logical"; restartLsn: Lsn | null } | string {
  const physical = physicalSlots.find((slot) => slot.name === name);
  if (physical)
    return physical.active ? "it is in use: a standby streams from it" : { ...physical, kind: "physical" };
  const logical = slotNamed(slots, name);
  if (!logical) return "there is no such slot on this standby";
  if (logical.activePid !== null) return `it is in use, by process ${logical.activePid}`;
  if (logical.temporary) return "it is a temporary slot, of a session that is at work";
  if (logical.synced) return "the server itself keeps it (sync_replication_slots)";
  const record = journal.slots.get(name);
  const ours = isOwnSlotName(name) || isOurs(logical, record) || (record?.births.length ?? 0) > 0;
  // where no sidecar is left nobody else would ever drop it
  if (ours && keeper !== null)
    return `it is the sidecar's own (${keeper}), which drops it by itself when it is not needed any more`;
  return { kind: "logical", restartLsn: logical.restartLsn };
}

function tell(
  results: readonly Released[],
  { json = false, dryRun = false }: ReleaseOptions,
  output: Output,
): void {
  if (json) {
    output.json({ dryRun, slots: results });
    return;
  }
  if (results.length === 0) output.print("nothing to release: no slot of this standby is left over\n");
  for (const { name, outcome, detail } of results)
    output.print(
      `${printable(`${outcome.replaceAll("_", " ")}: ${name}${detail === null ? "" : ` (${detail})`}`)}\n`,
    );
}
