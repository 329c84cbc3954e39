/**
 * A standby of a standby. Its feedback reaches the primary through the one between, which passes on what its physical slots hold beside
 * what it needs itself. So what holds catalog rows (I4) is a chain: our standby's physical slot on the one between, and that one's on the
 * primary. Each hop may give way by itself; rows are held as far as both hold them, and since neither was interrupted.
 */
import type { PhysicalSlot, PrimaryView, StandbyView, UpstreamUnknown, UpstreamView } from "./observation.ts";
import type { Problem } from "./prerequisites.ts";
import { xidPrecedesOrEquals } from "./xid.ts";

/** The primary as it holds for our standby: `primary` was asked for the physical slot of the one between, after that one was asked. */
export function throughUpstream(primary: PrimaryView, upstream: UpstreamView): PrimaryView {
  return { ...primary, physicalSlot: bothHold(primary.physicalSlot, upstream), upstream };
}

function bothHold(
  far: PhysicalSlot | null,
  { hotStandbyFeedback, physicalSlot: near }: UpstreamView,
): PhysicalSlot | null {
  if (far === null || near === null) return null;
  const [there, between] = [far.catalogXmin, near.catalogXmin];
  const held = hotStandbyFeedback && there !== null && between !== null;
  return {
    name: far.name,
    active: far.active && near.active,
    catalogXmin: held ? (xidPrecedesOrEquals(there, between) ? between : there) : null,
  };
}

/**
 * Both servers as they hold for feedback: what interrupts it on either hop makes it begin anew. `sameReceiver`: our standby's walreceiver is
 * still the one that it was when the server between was looked for; else it may stream from another by now, and what was asked holds nothing.
 */
export function seenThrough(
  primary: PrimaryView,
  standby: StandbyView,
  sameReceiver: boolean,
): { primary: PrimaryView; standby: StandbyView } {
  const { upstream, physicalSlot } = primary;
  if (!upstream || "why" in upstream) return { primary, standby };
  const held = sameReceiver || physicalSlot === null ? physicalSlot : { ...physicalSlot, catalogXmin: null };
  return {
    primary: { ...primary, physicalSlot: held },
    standby: {
      ...standby,
      feedbackSession: `${standby.feedbackSession} through ${upstream.feedbackSession}`,
    },
  };
}

const unproven = (message: string): Problem => ({ code: "cascade_unproven", severity: "stop", message });

/** What keeps the chain from being proven: one message, for the hop nearest to ours that is at fault. */
export function cascadeProblem(
  primary: PrimaryView,
  standby: Pick<StandbyView, "primarySlotName" | "streaming">,
  upstream: UpstreamView | UpstreamUnknown,
): Problem | null {
  const { target } = upstream;
  const between = `this standby streams from ${target}, which is a standby itself`;
  if ("why" in upstream)
    return unproven(
      `this standby has no active physical slot on the primary, and ${target}, from which it streams, cannot be asked: ${upstream.why}; let the role in primary.dsn log in there too`,
    );
  if (upstream.systemIdentifier !== primary.systemIdentifier)
    return {
      code: "system_identifier_differs",
      severity: "stop",
      message: `${between}, and of another cluster than primary.dsn (system identifier ${upstream.systemIdentifier}, the primary has ${primary.systemIdentifier})`,
    };
  if (upstream.physicalSlot === null)
    return unproven(
      `${between} and has no physical replication slot "${standby.primarySlotName}", which primary_slot_name on this one names: SELECT pg_create_physical_replication_slot('${standby.primarySlotName}') there`,
    );
  if (!upstream.physicalSlot.active || !standby.streaming)
    return unproven(
      `${between}, and the physical replication slot "${upstream.physicalSlot.name}" is not active there, or not by this standby, which is not streaming (see this standby's log, primary_conninfo and pg_stat_wal_receiver)`,
    );
  if (!upstream.hotStandbyFeedback)
    return unproven(
      `${between}, and hot_standby_feedback is off there, so this one's does not reach the primary, which may remove catalog rows that the slots need: set hot_standby_feedback = on there and reload`,
    );
  if (upstream.primarySlotName === null)
    return unproven(
      `${between}, and by which physical slot that one streams cannot be seen: GRANT pg_monitor TO the role in primary.dsn (before 12 no server tells, and cascades are not supported)`,
    );
  if (upstream.primarySlotName === "")
    return unproven(
      `${between}, and streams from the primary without a physical slot: create one there, name it in primary_slot_name on ${target} and reload`,
    );
  if (primary.physicalSlot === null || !primary.physicalSlot.active)
    return unproven(
      `${between}, and its physical replication slot "${upstream.primarySlotName}" is missing or not active on the primary: it must stream from the primary itself (a longer chain is not supported), see primary_slot_name and the log there`,
    );
  return null;
}
