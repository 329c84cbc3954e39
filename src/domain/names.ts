/**
 * Names of our own slots. They carry the journal's instance id, so that slots of a lost journal are never taken for ours (I7)
 * and a creation that was cut off can finish late without clashing with its successor.
 */
const OWN_PREFIX = "slotsync_";

/** What PostgreSQL accepts as a slot name (`ReplicationSlotValidateName` in slot.c); checked again because it comes from another machine (I13). */
const SLOT_NAME = /^[a-z0-9_]{1,63}$/;

/** True for a name that may touch a path or a slot function. */
export function isValidSlotName(name: string): boolean {
  return SLOT_NAME.test(name);
}

/**
 * The plain name of a library in the server's own folder. The server also takes a path, and would load whatever lies there: a plugin's name
 * comes from another machine, so no server is asked for more than a name (I13).
 */
const LIBRARY_NAME = /^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}$/;

/** True for an output plugin that a server may be asked to load. */
export function isLibraryName(plugin: string): boolean {
  return LIBRARY_NAME.test(plugin);
}

/** True for slots that a sidecar made for itself, this one's or another's: never a failover slot. */
export function isOwnSlotName(name: string): boolean {
  return name.startsWith(OWN_PREFIX);
}

/** The persistent guard of a database; `serial` grows with each attempt, so a late one never wears a newer one's name. */
export function guardName(instanceId: string, databaseOid: number, serial: number): string {
  return `${OWN_PREFIX}guard_${databaseOid}_${instanceId}_${serial}`;
}

/** True for a guard of this journal, of whatever attempt: its name proves it ours (I7). */
export function isGuardOf(name: string, instanceId: string): boolean {
  return name.startsWith(`${OWN_PREFIX}guard_`) && name.split("_")[3] === instanceId;
}

/** True for a guard that another journal's sidecar made. */
export function isForeignGuard(name: string, instanceId: string): boolean {
  return name.startsWith(`${OWN_PREFIX}guard_`) && !isGuardOf(name, instanceId);
}

/** The temporary copy of a guard that waits for laggards. */
export function holdName(instanceId: string, databaseOid: number): string {
  return `${OWN_PREFIX}hold_${databaseOid}_${instanceId}`;
}

/** The temporary slot that is advanced to the exact position before it is copied to the real name (G2b); `serial` where several are. */
export function workName(instanceId: string, databaseOid: number, serial = 0): string {
  return `${OWN_PREFIX}work${serial === 0 ? "" : serial}_${databaseOid}_${instanceId}`;
}

/** A temporary slot on the primary that holds WAL and catalog rows for what is being staged. */
export function pinName(instanceId: string, serial: number): string {
  return `${PIN_PREFIX}${instanceId}_${serial}`;
}

/** True for a pin of this journal's sidecar, or of one that was killed. */
export function isPinOf(name: string, instanceId: string): boolean {
  return name.startsWith(`${PIN_PREFIX}${instanceId}_`);
}

/** What the names of all pins begin with. */
export const PIN_PREFIX = `${OWN_PREFIX}pin_`;
