/** Taking back what was staged, when this node has become a primary: loaded there at a later start, it would be a stale slot (I6). */
import { verifyDirectory } from "../datadir/identity.ts";
import { listSlotFolders, removeSlotFolder } from "../datadir/slot-folders.ts";
import type { JournalState } from "../domain/journal.ts";
import { isGuardOf } from "../domain/names.ts";
import { attemptIn } from "../domain/plan-stage.ts";

export interface UnstageInput {
  directory: string;
  journal: JournalState;
  systemIdentifier: string;
  serverVersionNum: number;
  /** Slots that the server has in memory: their folders are its own. */
  loaded: ReadonlySet<string>;
}

/** Removes the slot folders that are ours and not loaded; returns their names. Throws DataDirectoryError. */
export async function unstageAll(input: UnstageInput): Promise<string[]> {
  const { directory, journal, systemIdentifier, serverVersionNum, loaded } = input;
  const major = Math.floor(serverVersionNum / 10_000);
  await verifyDirectory(directory, { systemIdentifier, major, server: null });
  const removed: string[] = [];
  for (const { name, state } of await listSlotFolders(directory, major, { known: loaded })) {
    if (loaded.has(name)) continue;
    const ours =
      isGuardOf(name, journal.instanceId) ||
      attemptIn({ name, state }, journal.slots.get(name)) !== undefined;
    if (!ours) continue;
    await removeSlotFolder(directory, name);
    removed.push(name);
  }
  return removed;
}
