/** Looks at both servers in the order that safety needs. */
import { seenThrough, throughUpstream } from "../domain/cascade.ts";
import type { PrimaryView } from "../domain/observation.ts";
import type { DataDirectory } from "../observe/files.ts";
import { observePrimary } from "../observe/primary.ts";
import { observeStandby, type StandbyLook } from "../observe/standby.ts";
import type { PrimaryLink, StandbyLink } from "./links.ts";

/** The primary does not answer, or not usably; the standby does. */
export class PrimaryUnreachableError extends Error {
  override readonly name = "PrimaryUnreachableError";
}

export interface Seen {
  primary: PrimaryView;
  look: StandbyLook;
}

/**
 * `known` is the last look at the standby: where it streams from and by which slot.
 * The primary is asked first: what the standby has flushed can only have grown when it is asked, so a subscriber is never thought
 * ahead of it by the order of questions alone. Throws PrimaryUnreachableError for the primary's part, the session's error otherwise.
 */
export async function observeBoth(
  standby: StandbyLink,
  primary: PrimaryLink,
  known: StandbyLook,
  directory: DataDirectory | null,
): Promise<Seen> {
  const asked = await lookAtPrimary(primary, known);
  const look = await observeStandby(await standby.control(), directory);
  const sameReceiver = JSON.stringify(look.sender) === JSON.stringify(known.sender);
  const seen = seenThrough(asked, look.view, sameReceiver);
  return { primary: seen.primary, look: { ...look, view: seen.standby } };
}

/** The standby between is asked before the primary: what it holds, it has held since. */
async function lookAtPrimary(primary: PrimaryLink, known: StandbyLook): Promise<PrimaryView> {
  const own = known.view.primarySlotName ?? "";
  try {
    const session = await primary.session(known.primaryConninfo);
    const upstream = primary.followsStandby ? null : await primary.upstream.look(known);
    if (!upstream) return await observePrimary(session, own);
    if (!("why" in upstream))
      return throughUpstream(await observePrimary(session, upstream.primarySlotName ?? ""), upstream);
    const view = await observePrimary(session, own);
    return view.physicalSlot?.active ? view : { ...view, upstream };
  } catch (error) {
    throw new PrimaryUnreachableError("the primary does not answer", { cause: error });
  }
}
