/** What this node's past and its primary's have in common, for the slots that are left from when it was a primary itself. */
import { failureOf } from "../apply/errors.ts";
import type { PrimaryView, StandbyView } from "../domain/observation.ts";
import { isOurs } from "../domain/ownership.ts";
import { slotNamed } from "../domain/slot.ts";
import { observeLife } from "../observe/life.ts";
import { describeError } from "../pg/errors.ts";
import { readTimelineHistory } from "../pg/server-history.ts";
import type { Sidecar } from "./sidecar.ts";

/** Writes down how this primary looks, when that has changed. What cannot be read is told, and only makes less provable. */
export async function noteLife(sidecar: Sidecar): Promise<void> {
  const { journal, standby, options } = sidecar;
  try {
    const life = await observeLife({
      control: await standby.control(),
      openReplication: () => standby.openReplication("history"),
      directory: options.dataDirectory,
      known: journal.life,
    });
    if (life === null || sameLife(life, journal.life)) return;
    await sidecar.record({ ...sidecar.journal, life });
  } catch (error) {
    sidecar.log.debug(`how this primary looks could not be written down: ${describeError(error)}`);
  }
}

function sameLife(a: object, b: object | null): boolean {
  const text = (life: object | null) =>
    JSON.stringify(life, (_, value: unknown) => (typeof value === "bigint" ? value.toString() : value));
  return text(a) === text(b);
}

/** Where the back-off of reading it is kept; no slot can have this name. */
const HISTORY_KEY = "primary:history";

/** Reads the history of the primary's timeline where a slot is in the way that may be of this node's own past. */
export async function learnHistory(
  sidecar: Sidecar,
  primary: PrimaryView,
  standby: StandbyView,
): Promise<void> {
  const { journal, policy } = sidecar;
  if (policy.onConflict === "refuse" || journal.life === null || primary.inRecovery) return;
  if (primary.systemIdentifier !== standby.systemIdentifier || primary.timeline === 0) return;
  if (journal.history?.timeline === primary.timeline) return;
  const inTheWay = primary.slots.some(({ name }) => {
    const local = slotNamed(standby.slots, name);
    return local !== undefined && !isOurs(local, journal.slots.get(name));
  });
  if (!inTheWay || !sidecar.memory.mayTry(HISTORY_KEY, sidecar.now())) return;
  try {
    const { timeline } = primary;
    const forks = await readTimelineHistory(
      () => sidecar.primary.openReplication(sidecar.lastLook.primaryConninfo, "history"),
      timeline,
    );
    sidecar.memory.succeeded(HISTORY_KEY);
    sidecar.journal = { ...sidecar.journal, history: { timeline, forks } };
  } catch (error) {
    // each attempt is a connection to the primary (I12)
    const failures = sidecar.memory.failed(HISTORY_KEY, failureOf(error), sidecar.now());
    sidecar.log[failures === 1 ? "warn" : "debug"](
      `the history of the primary's timeline could not be read: ${describeError(error)}`,
    );
  }
}
