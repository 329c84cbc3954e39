/** 17+: what causes most trouble around the server's own slot sync. Told, and standing against nothing: the guards are there meanwhile. */
import { syncsByServer } from "./capability.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import type { Memory } from "./plan.ts";
import { leftToSync, SERVER_SYNC_KEY } from "./plan-served.ts";
import type { Problem } from "./prerequisites.ts";
import type { PrimarySlot } from "./slot.ts";

const warning = (code: string, message: string): Problem => ({ code, severity: "warning", message });

/** Problems of the settings and slots that the server's own slot sync goes by. */
export function auditServerSync(
  primary: PrimaryView,
  standby: StandbyView,
  chosen: readonly PrimarySlot[],
  { backoff }: Pick<Memory, "backoff">,
): Problem[] {
  if (!syncsByServer(standby.serverVersionNum) || primary.remembered) return [];
  const problems: Problem[] = [];
  const flagged = chosen.some(({ failover }) => failover);
  if (standby.conninfoHasDatabase === false && (flagged || standby.syncsSlots))
    problems.push(
      warning(
        "sync_needs_dbname",
        "primary_conninfo on the standby names no database, so its server can sync no slot that is flagged failover: add dbname=postgres (any database) to it there and reload; until then only guards protect them",
      ),
    );
  const failure = backoff.get(SERVER_SYNC_KEY);
  const { behind, stale: gone } = leftToSync(primary, standby, chosen);
  // with nothing left to sync it is not tried again, and an old failure would be told for ever
  if (failure && !standby.syncsSlots && behind.length + gone.length > 0)
    problems.push(
      warning(
        "server_sync_failed",
        `the standby's server does not sync its slots, and guards stand in: ${failure.detail}`,
      ),
    );
  if (primary.stalledStandbySlots.length > 0)
    problems.push(
      warning(
        "standby_slots_stalled",
        `synchronized_standby_slots on the primary names ${list(primary.stalledStandbySlots)}, which no standby streams from: subscribers of failover slots receive nothing until one does. Start that standby, or take the name out there and reload`,
      ),
    );
  const leftovers = standby.slots.filter((slot) => slot.failover && !slot.synced).map(({ name }) => name);
  if (leftovers.length > 0)
    problems.push(
      warning(
        "failover_slots_unsynced",
        `on the standby ${list(leftovers)} is flagged failover and not synced, as slots are that a former primary brings along: the server's own sync stops at the first of them. What slots.on_conflict does not take over or drop, drop there: SELECT pg_drop_replication_slot('${leftovers[0]}')`,
      ),
    );
  const stale = primary.slots.filter((slot) => slot.synced && !slot.failover).map(({ name }) => name);
  if (stale.length > 0)
    problems.push(
      warning(
        "synced_on_primary",
        `on the primary ${list(stale)} still says synced, from when that node was a standby, and is not flagged failover: should it become a standby again, its server drops it. Flag it (slotsync flag ${stale[0]}), or make it anew`,
      ),
    );
  return problems;
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, 3).map((name) => `"${name}"`);
  return names.length > 3 ? `${shown.join(", ")} and ${names.length - 3} more` : shown.join(", ");
}
