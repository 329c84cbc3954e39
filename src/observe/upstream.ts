/** What the standby between the primary and ours looks like: a cascade. */
import type { UpstreamView } from "../domain/observation.ts";
import { parseXid } from "../domain/xid.ts";
import type { PgSession } from "../pg/session.ts";
import { lookAtUpstream } from "../pg/sql.ts";

interface UpstreamRow {
  in_recovery: boolean;
  system_identifier: string;
  hot_standby_feedback: string;
  primary_slot_name: string | null;
  feedback_session: string;
  name: string | null;
  active: boolean | null;
  catalog_xmin: string | null;
}

/** Looks at the server that our standby streams from by the slot `physicalSlot`; null when that is no standby. Throws what the session throws. */
export async function observeUpstream(
  session: PgSession,
  physicalSlot: string,
): Promise<UpstreamView | null> {
  const [row] = await session.query<UpstreamRow>(lookAtUpstream(session.serverVersionNum), [physicalSlot], {
    what: "looking at the standby that this one streams from",
  });
  if (!row) throw new Error("its answer is incomplete");
  if (!row.in_recovery) return null;
  return {
    target: session.target,
    systemIdentifier: row.system_identifier,
    hotStandbyFeedback: row.hot_standby_feedback === "on",
    primarySlotName: row.primary_slot_name,
    physicalSlot:
      row.name === null
        ? null
        : {
            name: row.name,
            active: row.active ?? false,
            catalogXmin: row.catalog_xmin === null ? null : parseXid(row.catalog_xmin),
          },
    feedbackSession: `${row.primary_slot_name ?? ""} ${row.feedback_session}`,
  };
}
