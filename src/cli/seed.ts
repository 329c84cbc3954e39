/** `slotsync seed`: between a base backup and the first start of a standby. */
import type { Command } from "commander";
import { type StageFlags, stageStopped, withStageFlags } from "./offline.ts";
import type { Output } from "./output.ts";
import { configOf } from "./settings.ts";

export function addSeed(program: Command, output: Output, setExit: (code: number) => void): void {
  withStageFlags(program.command("seed"))
    .description("before a standby's first start: put its failover slots and guards into the base backup")
    .option("--data-directory <path>", "the base backup; overrides standby.data_directory")
    .addHelpText(
      "after",
      `
For PostgreSQL 11 to 15, where a standby loads slots only when it starts: seeded, it never needs a restart for them
(on 11: for those that exist now). Run it after pg_basebackup, once standby.signal (before 12: recovery.conf) is
there, and before the first start. The primary is found by primary.dsn, or by primary_conninfo in the backup's
settings. Right after the start, slotsync run completes and proves what was loaded.

Exit codes: 0 seeded, or nothing to seed; 1 a slot could not be, or the directory is not one to seed; 2 the
configuration or the command line is wrong.

Examples:
  pg_basebackup -D /var/lib/postgresql/15/main -R -X stream && slotsync seed -c slotsync.yaml
  slotsync seed -c slotsync.yaml --data-directory /srv/backup --dry-run`,
    )
    .action(async (flags: StageFlags & { dataDirectory?: string }, command: Command) => {
      const config = configOf(command, output);
      const { dataDirectory } = flags;
      const chosen =
        dataDirectory === undefined ? config : { ...config, standby: { ...config.standby, dataDirectory } };
      setExit(await stageStopped(chosen, "seed", flags, output));
    });
}
