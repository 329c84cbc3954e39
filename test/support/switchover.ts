/** A planned switchover, as an operator's runbook has it. */
import { cpSync, rmSync } from "node:fs";
import path from "node:path";
import { giveTo } from "../../src/sandbox/account.ts";
import { backupInto } from "../../src/sandbox/backup.ts";
import { ensurePhysicalSlot, rejoin } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { TestSidecar } from "./sidecar.ts";
import { eventually } from "./wait.ts";

/** One server and the sidecar beside it. */
export interface TestNode {
  server: PgServer;
  sidecar: TestSidecar;
}

/** Stops the primary cleanly, promotes the standby, and waits until its sidecar has finished. */
export async function switchOver(from: TestNode, to: TestNode): Promise<void> {
  const { history } = to.sidecar;
  const before = history.length;
  // a clean shutdown waits until the standbys that stream have all of it
  await from.server.stop();
  to.server.promote();
  await to.server.waitPromoted();
  await to.sidecar.until(
    "the finishing step",
    ({ role, finish }) => role === "primary" && finish !== null && history.length > before,
  );
}

/** Lets the former primary follow the new one, with whatever slots it still has. */
export async function comeBack(former: TestNode, primary: TestNode): Promise<void> {
  await rejoin(former.server, primary.server, { slotName: former.server.name });
}

/** Waits until its sidecar has seen that the slot stands where it was created. */
export async function untilNoted({ sidecar: { sidecar } }: TestNode, slot: string): Promise<void> {
  await eventually(() => sidecar.journal.life?.unmoved.some(({ name }) => name === slot) ?? false, {
    what: `slot "${slot}" to be noted on its primary`,
  });
}

/** Replaces the data of a stopped server by a fresh backup of another, as a rebuild or a rewind does: no slot is left there. */
export async function rebuildFrom(source: PgServer, target: PgServer): Promise<void> {
  rmSync(target.dataDir, { recursive: true });
  await ensurePhysicalSlot(source, target.name);
  await backupInto(source, target);
}

/** Puts a slot's folder back that was saved before. */
export function restoreSlot(server: PgServer, saved: string, name: string): void {
  const folder = path.join(server.dataDir, "pg_replslot", name);
  cpSync(path.join(saved, name), folder, { recursive: true });
  giveTo(server.workspace.account, folder);
  giveTo(server.workspace.account, path.join(folder, "state"));
}
