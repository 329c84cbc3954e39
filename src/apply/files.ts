/** The lane of slot files: one thing after another, beside the lanes of the databases. Each action's failure is its own (I9). */
import type { FileAction } from "../domain/action.ts";
import type { Staged } from "../domain/journal.ts";
import type { PgSession } from "../pg/session.ts";
import { completeSlot } from "./complete.ts";
import { type Outcome, WrongRoleError } from "./errors.ts";
import { fetchMappings } from "./mappings.ts";
import type { OpenPrimary, PinKeeper } from "./pin.ts";
import type { SnapshotStore } from "./snapshot-store.ts";
import { stageSlots, unstageSlot } from "./stage.ts";

export interface FilesContext {
  directory: string;
  openPrimary: OpenPrimary;
  pins: PinKeeper;
  snapshots: SnapshotStore;
  server: () => { major: number; systemIdentifier: string; walSegmentBytes: number };
  noteStaged: (name: string, staged: Staged) => Promise<void>;
  noteSnapshotLost: (name: string) => Promise<void>;
  /** Called when the actions begin; what it returns throws when the standby has been started or stopped since it was looked at for them. */
  sameRun: () => () => Promise<void>;
  now: () => number;
}

/** Runs all of them and reports an outcome for every one. Never throws. */
export async function runFiles(
  actions: readonly FileAction[],
  context: FilesContext,
  signal: AbortSignal,
  report: (outcome: Outcome) => void,
): Promise<void> {
  let opened: PgSession | null = null;
  const session = async () => {
    if (!opened?.usable) opened = await context.openPrimary("files", null, true);
    return opened;
  };
  // taken now: the cycles go on meanwhile, and look at whatever server is there then
  const sameRun = context.sameRun();
  // I8: after the promotion a folder in this place is the new primary's, and a file put into it would be loaded there
  const assertSameRun = async () => {
    await sameRun();
    if (signal.aborted) throw new WrongRoleError("syncing has been halted");
  };
  const reported = new Set<FileAction>();
  const once = (action: FileAction, error: unknown) => {
    reported.add(action);
    report({ action, error });
  };
  try {
    for (const action of actions) {
      if (signal.aborted) return;
      if (action.kind === "unstage")
        await attempt(action, once, async () => {
          await assertSameRun();
          await unstageSlot(context.directory, action.slot);
        });
      if (action.kind === "complete")
        await attempt(action, once, () => completeSlot(action, { ...context, ...context.server(), session }));
    }
    const fetches = actions.filter((action) => action.kind === "fetch_mappings");
    if (fetches.length > 0 && !signal.aborted)
      await attemptAll(fetches, once, async () =>
        fetchMappings(fetches, { directory: context.directory, session: await session() }),
      );
    const stages = actions.filter((action) => action.kind === "stage");
    if (stages.length > 0 && !signal.aborted)
      await stageSlots(
        stages,
        { ...context, session: await session(), note: context.noteStaged, assertSameRun },
        once,
      );
  } catch (error) {
    for (const action of actions) if (!reported.has(action)) report({ action, error });
  } finally {
    await (opened as PgSession | null)?.close();
  }
}

/** One step for all of them. */
async function attemptAll(
  actions: readonly FileAction[],
  ended: (action: FileAction, error: unknown) => void,
  run: () => Promise<void>,
): Promise<void> {
  let outcome: unknown = null;
  try {
    await run();
  } catch (error) {
    outcome = error;
  }
  for (const action of actions) ended(action, outcome);
}

async function attempt(
  action: FileAction,
  ended: (action: FileAction, error: unknown) => void,
  run: () => Promise<void>,
): Promise<void> {
  try {
    await run();
    ended(action, null);
  } catch (error) {
    ended(action, error);
  }
}
