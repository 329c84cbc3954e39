import { mkdirSync, writeFileSync } from "node:fs";
import { copyFile, mkdir, readdir } from "node:fs/promises";
import path from "node:path";
import { type Account, giveTo } from "./account.ts";
import type { PgServer } from "./server.ts";

// as pg_basebackup leaves them out: files of one run, and what a standby must not inherit
const EMPTY_FOLDERS = new Set([
  "pg_wal",
  "pg_replslot",
  "pg_dynshmem",
  "pg_notify",
  "pg_serial",
  "pg_snapshots",
  "pg_stat_tmp",
  "pg_subtrans",
]);
const SKIPPED_FILES = new Set([
  "postmaster.pid",
  "postmaster.opts",
  "backup_label",
  "tablespace_map",
  "standby.signal",
  "recovery.signal",
  "recovery.conf",
  "recovery.done",
]);

/**
 * Copies a running server into the (empty) data folder of another by the low-level backup functions; the copy
 * has no WAL and must stream it from the source. (The npm packages hold no pg_basebackup.)
 */
export async function backupInto(source: PgServer, target: PgServer): Promise<void> {
  // starting and stopping belong to one session: the backup ends with it
  const session = await source.connect();
  try {
    const before15 = source.major < 15;
    await session.query(
      before15
        ? "select pg_catalog.pg_start_backup('sandbox', true, false)"
        : "select pg_catalog.pg_backup_start('sandbox', true)",
    );
    const { account } = target.workspace;
    await copyFolder(source.dataDir, target.dataDir, account);
    mkdirSync(path.join(target.dataDir, "pg_wal", "archive_status"), { mode: 0o700 });
    giveTo(account, path.join(target.dataDir, "pg_wal", "archive_status"));
    const { rows } = await session.query<{ labelfile: string }>(
      `select labelfile from pg_catalog.${before15 ? "pg_stop_backup(false, false)" : "pg_backup_stop(false)"}`,
    );
    const label = path.join(target.dataDir, "backup_label");
    writeFileSync(label, rows[0]?.labelfile ?? "");
    giveTo(account, label);
  } finally {
    await session.end();
  }
}

async function copyFolder(from: string, to: string, account: Account | undefined): Promise<void> {
  await mkdir(to, { mode: 0o700 });
  giveTo(account, to);
  if (EMPTY_FOLDERS.has(path.basename(from))) return;
  const copies = (await readdir(from, { withFileTypes: true })).map(async (entry) => {
    const [source, copy] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) await copyFolder(source, copy, account);
    else if (!isSkipped(entry.name)) await copyLive(source, copy, account);
  });
  await Promise.all(copies);
}

function isSkipped(name: string): boolean {
  return SKIPPED_FILES.has(name) || name.startsWith("pg_internal.init") || name.startsWith("pgsql_tmp");
}

async function copyLive(source: string, copy: string, account: Account | undefined): Promise<void> {
  try {
    await copyFile(source, copy);
  } catch (error) {
    // removed since the folder was listed: replaying the WAL removes it too
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  giveTo(account, copy);
}
