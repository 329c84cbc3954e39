/** Looks at both servers in the order that safety needs. */
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
  let view: PrimaryView;
  try {
    const session = await primary.session(known.primaryConninfo);
    view = await observePrimary(session, known.view.primarySlotName ?? "");
  } catch (error) {
    throw new PrimaryUnreachableError("the primary does not answer", { cause: error });
  }
  return { primary: view, look: await observeStandby(await standby.control(), directory) };
}
