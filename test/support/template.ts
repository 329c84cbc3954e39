import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { mkdtemp, rename, rm } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { ensureServerBinaries } from "../../src/sandbox/binaries.ts";
import { cacheFolder, makeReadable } from "../../src/sandbox/cache.ts";
import { addStandby, baseSettings, createPrimary, createSubscriber } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { Workspace } from "../../src/sandbox/workspace.ts";
import { removeStaleLock, withFileLock } from "./lock.ts";
import { waitForReplay } from "./wal.ts";

const run = promisify(execFile);

/** Raise it when templates are built otherwise than before. */
const REVISION = 4;

/** The physical slot, and the standby's name, in a template. */
export const TEMPLATE_STANDBY = "standby1";

/** The servers of a template, stopped cleanly: a primary, its standby, and a server with another system identifier. */
export type TemplateServer = "primary" | typeof TEMPLATE_STANDBY | "subscriber";

/**
 * The folder of stopped servers of a major that tests start copies of. Built once, by the first who asks: making a
 * cluster takes seconds, copying one a fraction.
 */
export async function ensureTemplate(major: number): Promise<string> {
  const { version } = await ensureServerBinaries(major);
  const key = createHash("sha256")
    .update(JSON.stringify([REVISION, baseSettings(major)]))
    .digest("hex")
    .slice(0, 12);
  const template = path.join(templatesFolder(), `${version}-${process.platform}-${process.arch}-${key}`);
  if (!existsSync(template)) {
    await withFileLock(`${template}.lock`, async () => {
      if (!existsSync(template)) await build(major, template);
    });
  }
  return template;
}

/** Fills the data folder of a server that has none yet. */
export async function copyFromTemplate(template: string, from: TemplateServer, to: PgServer): Promise<void> {
  await copyTree(path.join(template, from), to.dataDir);
}

/** Removes the locks and the unfinished folders that killed test runs left. */
export async function cleanTemplates(): Promise<void> {
  const folder = templatesFolder();
  for (const name of readdirSync(folder)) {
    if (name.endsWith(".lock")) removeStaleLock(path.join(folder, name));
  }
  if (readdirSync(folder).some((name) => name.endsWith(".lock"))) return;
  for (const name of readdirSync(folder)) {
    if (name.startsWith(".build-")) await rm(path.join(folder, name), { recursive: true, force: true });
  }
}

function templatesFolder(): string {
  return makeReadable(path.join(cacheFolder(), "templates"));
}

async function build(major: number, template: string): Promise<void> {
  const workspace = new Workspace();
  const unfinished = await mkdtemp(path.join(templatesFolder(), ".build-"));
  try {
    // every test copies what WAL is left: keep one segment a server
    const lean = {
      ...(major >= 13 ? { wal_keep_size: 0 } : { wal_keep_segments: 0 }),
      ...(major >= 12 ? { wal_recycle: false } : {}),
    };
    const options = { major, workspace, fsync: false, settings: { ...lean, min_wal_size: "32MB" } };
    const [primary, subscriber] = await Promise.all([createPrimary(options), createSubscriber(options)]);
    const standby = await addStandby(primary, { slotName: TEMPLATE_STANDBY });
    await waitForReplay(primary, standby);
    for (const server of [primary, standby]) await server.query("checkpoint");
    // the primary first: the standby then has its last record, and both start again without a gap
    for (const server of [primary, standby, subscriber]) {
      await server.stop();
      await copyTree(server.dataDir, path.join(unfinished, server.name));
    }
    await rename(unfinished, template).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
    });
  } finally {
    await rm(unfinished, { recursive: true, force: true });
    await workspace.dispose();
  }
}

/** Copies with owners and modes; shares blocks where the file system can, and leaves out the empty rest of WAL segments. */
async function copyTree(from: string, to: string): Promise<void> {
  mkdirSync(path.dirname(to), { recursive: true });
  const options = process.platform === "linux" ? ["-a", "--reflink=auto", "--sparse=always"] : ["-Rp"];
  await run("cp", [...options, from, to]);
}
