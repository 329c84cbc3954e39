/** What `slotsync flag` and `unflag` have to do for each slot, and what stands against it. Pure. */
import { isOwnSlotName, isValidSlotName } from "./names.ts";

/** Since this version the server keeps the flag itself. */
export const SERVER_FLAG_SINCE = 170_000;

/** A slot of any kind on the primary. */
export interface FlagSlot {
  name: string;
  /** Null for a physical one. */
  plugin: string | null;
  database: string | null;
  temporary: boolean;
  activePid: number | null;
  /** 17+: the server's own flag. */
  failover: boolean;
}

/** An entry of the registry. */
export interface Flag {
  name: string;
  flaggedAt: string | null;
  flaggedBy: string | null;
}

/** What the commands see on the primary. */
export interface FlagView {
  serverVersionNum: number;
  slots: readonly FlagSlot[];
  /** Null when there is no registry. */
  flags: readonly Flag[] | null;
}

/** What is to be done for one name. */
export interface FlagStep {
  name: string;
  /** Why it cannot be done; then nothing is. */
  refusal: string | null;
  /** The server's own flag is to be set or cleared. */
  server: boolean;
  /** A row is to come or go. */
  registry: boolean;
  /** What has come of it once that is done. */
  told: string;
}

/** Why a text is not to be flagged as a slot's name, or null. */
export function whyNoName(name: string): string | null {
  if (!isValidSlotName(name))
    return "is not the name of a slot (1 to 63 lower-case letters, digits and _ are): see SELECT slot_name FROM pg_replication_slots";
  return isOwnSlotName(name) ? "is a name of a sidecar's own slots, which are never failover slots" : null;
}

/** What flagging (`on`) or unflagging a slot takes. */
export function planFlag(name: string, on: boolean, view: FlagView): FlagStep {
  const slot = view.slots.find((each) => each.name === name);
  const listed = view.flags?.some((flag) => flag.name === name) ?? false;
  const step: FlagStep = { name, refusal: null, server: false, registry: false, told: "" };
  const refuse = (refusal: string) => ({ ...step, refusal });
  const ownFlag = view.serverVersionNum >= SERVER_FLAG_SINCE;

  if (on && slot?.plugin === null)
    return refuse("it is a physical slot, and only logical ones are failover slots: name a logical slot");
  if (on && slot?.temporary)
    return refuse("it is a temporary slot, which ends with its session: create a persistent one");
  if (ownFlag && on && !slot)
    return refuse(
      "there is no such slot, and since 17 the flag is part of the slot: create it flagged (pg_create_logical_replication_slot with failover => true, or CREATE SUBSCRIPTION … WITH (failover = true))",
    );
  const server = ownFlag && slot !== undefined && slot.failover !== on;
  if (server && slot.activePid !== null)
    return refuse(
      `it is in use by server process ${slot.activePid}, and the server changes the flag of an idle slot only: stop its subscriber for a moment (of a subscription, on the subscriber: ALTER SUBSCRIPTION … DISABLE, SET (failover = ${on}), ENABLE)`,
    );
  const registry = on ? !ownFlag && !listed : listed;
  return { ...step, server, registry, told: whatCameOfIt(on, server || registry, slot === undefined) };
}

function whatCameOfIt(on: boolean, changed: boolean, missing: boolean): string {
  if (!on) return changed ? "unflagged" : "was not flagged";
  const told = changed ? "flagged" : "was flagged already";
  return missing ? `${told}; there is no such slot yet: it is a failover slot from when it is made` : told;
}
