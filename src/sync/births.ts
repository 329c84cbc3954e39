/** New guards: what a look has to ask for their sake, and how they are brought to count soon (K4). */
import { hasUnsettled, isSettled } from "../domain/birth.ts";
import { createsOnStandby } from "../domain/capability.ts";
import type { PrimaryView, StandbyView } from "../domain/observation.ts";
import { provisionOf } from "../domain/proof.ts";
import { slotNamed } from "../domain/slot.ts";
import { oldestTransactions } from "../observe/transactions.ts";
import { snapshotPositions } from "../pg/server-history.ts";
import { LOG_STANDBY_SNAPSHOT } from "../pg/sql.ts";
import type { Sidecar } from "./sidecar.ts";

/** The standby's serialized snapshots, while one of ours may need one. */
export async function withSnapshots(sidecar: Sidecar, standby: StandbyView): Promise<StandbyView> {
  if (!createsOnStandby(standby.serverVersionNum) || !hasUnsettled(sidecar.journal, standby)) return standby;
  const positions = await snapshotPositions(await sidecar.standby.control());
  return { ...standby, snapshots: positions && new Set(positions) };
}

/** When to ask the primary for a running-xacts record while a guard needs one: after these many ms, then every last (I12). */
const NUDGES_MS = [0, 150, 300, 600, 1_000, 2_000, 5_000];
/** From this one on a transaction may stand in the way: the primary is asked which. */
const ASK_FROM = 4;

/** Asks the primary for what moves new guards on, less and less often while that does not help. */
export class Haste {
  #round = 0;
  #dueAt = 0;
  #open: PrimaryView["openTransactions"] = [];

  /** What the primary has said of its transactions. */
  get openTransactions(): NonNullable<PrimaryView["openTransactions"]> {
    return this.#open ?? [];
  }

  /** True when it has asked. Errors do not matter: such a record comes by itself in time. */
  async hasten(sidecar: Sidecar, standby: StandbyView): Promise<boolean> {
    const creating = sidecar.applier.creatingGuards.size > 0;
    const isNew = hasNewGuard(sidecar, standby);
    if (!creating && !isNew) {
      this.#round = 0;
      this.#dueAt = 0;
      this.#open = [];
      return false;
    }
    const session = sidecar.primary.current;
    if (sidecar.now() < this.#dueAt || session === null) return false;
    try {
      // a creation asks by itself
      if (isNew && createsOnStandby(session.serverVersionNum)) await session.query(LOG_STANDBY_SNAPSHOT);
      if (this.#round >= ASK_FROM) this.#open = await oldestTransactions(session);
    } catch (error) {
      if (!session.usable) throw error;
    }
    this.#dueAt = sidecar.now() + (NUDGES_MS[Math.min(this.#round + 1, NUDGES_MS.length - 1)] ?? 0);
    this.#round += 1;
    return this.#round < NUDGES_MS.length;
  }
}

/** True while a guard is here that does not count yet. */
export function hasNewGuard({ journal }: Pick<Sidecar, "journal">, standby: StandbyView): boolean {
  const guards = [...Object.values(journal.guards), ...Object.values(journal.lowGuards)];
  return guards.some((guard) => {
    const local = slotNamed(standby.slots, guard.name);
    return (
      local !== undefined && local.confirmedFlushLsn !== null && !isSettled(provisionOf(guard, local), local)
    );
  });
}
