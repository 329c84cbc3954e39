/** Runs one database's actions in their order, on one connection. Each action's failure is its own (I9). */
import type { Action } from "../domain/action.ts";
import { assertNever } from "../domain/assert-never.ts";
import { workName } from "../domain/names.ts";
import type { PgSession } from "../pg/session.ts";
import { type Evidence, examineSlot } from "./adopt.ts";
import { advanceSlots, briefly } from "./advance.ts";
import { createSlots } from "./create.ts";
import { dropFailoverSlot, dropOwnSlot } from "./drop.ts";
import { type Outcome, WrongRoleError } from "./errors.ts";
import { advanceGuard } from "./guard.ts";
import type { HoldKeeper } from "./hold.ts";
import { probeLibrary, probePlugin } from "./probe.ts";
import { releaseSlot } from "./release.ts";
import { replaceSlot } from "./replace.ts";

export interface LaneContext {
  instanceId: string;
  session: () => Promise<PgSession>;
  holds: HoldKeeper;
  /** The standby's data directory, or null. */
  directory: string | null;
  signal: AbortSignal;
  /** Records that a slot of this node's own past is ours, with what was found of it. */
  noteAdopted: (action: Extract<Action, { kind: "adopt" }>, evidence: Evidence) => Promise<void>;
  report: (outcome: Outcome) => void;
}

/** Runs all of them, and reports an outcome for every one. Never throws. */
export async function runLane(actions: readonly Action[], context: LaneContext): Promise<void> {
  for (const batch of batches(unsureLast(actions))) {
    if (context.signal.aborted) {
      reportAll(batch, new WrongRoleError("syncing has been halted"), context);
      continue;
    }
    const reported = new Set<Action>();
    const once = (outcome: Outcome) => {
      reported.add(outcome.action);
      context.report(outcome);
    };
    try {
      await runBatch(batch, { ...context, report: once });
    } catch (error) {
      reportAll(
        batch.filter((action) => !reported.has(action)),
        error,
        context,
      );
    }
  }
}

function reportAll(actions: readonly Action[], error: unknown, { report }: LaneContext): void {
  for (const action of actions) report({ action, error });
}

/** What may have to wait for other people's transactions must not keep the rest waiting. */
function unsureLast(actions: readonly Action[]): Action[] {
  return [...actions.filter((action) => !isUnsure(action)), ...actions.filter(isUnsure)];
}

function isUnsure(action: Action): boolean {
  return (action.kind === "advance" || action.kind === "advance_guard") && action.unsure;
}

const BATCHED: readonly Action["kind"][] = ["create", "advance"];

/** Neighbours of a kind that is cheaper together, else one by one. */
function batches(actions: readonly Action[]): Action[][] {
  const result: Action[][] = [];
  for (const action of actions) {
    const last = result.at(-1);
    if (last?.[0]?.kind === action.kind && BATCHED.includes(action.kind) && !isUnsure(action))
      last.push(action);
    else result.push([action]);
  }
  return result;
}

function ofKind<K extends Action["kind"]>(
  actions: readonly Action[],
  kind: K,
): Extract<Action, { kind: K }>[] {
  return actions.filter((action): action is Extract<Action, { kind: K }> => action.kind === kind);
}

async function runBatch(batch: readonly Action[], context: LaneContext): Promise<void> {
  const [action] = batch;
  if (!action) return;
  if (action.kind === "create") {
    const work = workName(context.instanceId, action.databaseOid);
    await createSlots(await context.session(), "standby", work, ofKind(batch, "create"), (create, error) =>
      context.report({ action: create, error }),
    );
    return;
  }
  if (action.kind === "advance") {
    const session = await context.session();
    const advances = ofKind(batch, "advance");
    const outcomes = isUnsure(action)
      ? await briefly(session, () => advanceSlots(session, advances))
      : await advanceSlots(session, advances);
    for (const outcome of outcomes) context.report(outcome);
    return;
  }
  await runOne(action, context);
  context.report({ action, error: null });
}

async function runOne(
  action: Exclude<Action, { kind: "create" | "advance" }>,
  context: LaneContext,
): Promise<void> {
  switch (action.kind) {
    case "advance_guard": {
      const session = await context.session();
      const advance = () => advanceGuard(session, action.guard, action.to);
      return action.unsure ? briefly(session, advance) : advance();
    }
    case "create_hold":
      return context.holds.create(action.database, action.hold, action.from);
    case "release_hold":
      return context.holds.release(action.hold);
    case "probe_plugin":
      if (action.from === null)
        return probeLibrary(await context.session(), context.directory, action.plugin);
      return probePlugin(
        await context.session(),
        workName(context.instanceId, action.databaseOid),
        action.from,
        action.plugin,
      );
    case "replace":
      return replaceSlot(await context.session(), action);
    case "adopt":
      return context.noteAdopted(
        action,
        await examineSlot(await context.session(), action, context.directory),
      );
    case "release":
      return releaseSlot(await context.session(), action.slot, action.restart);
    case "drop":
      return dropFailoverSlot(await context.session(), "standby", action.slot, action.at);
    case "drop_leftover":
      return dropOwnSlot(await context.session(), "standby", action.slot);
    case "create_guard":
    case "stage":
    case "unstage":
    case "complete":
    case "fetch_mappings":
    case "sync_slots":
      throw new Error(`"${action.kind}" does not run in a database's lane`);
    default:
      return assertNever(action);
  }
}
