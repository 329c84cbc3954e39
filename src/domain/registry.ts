/** The flag registry: one small table on the primary that names the slots that are to survive a failover. Pure. */
import { isValidSlotName } from "./names.ts";

/** Where it is, in the database that the sidecar polls. It replicates physically, and so is there after every failover. */
export const REGISTRY_TABLE = "slotsync.failover_slot";

/** What one poll saw of the registry. */
export type Registry =
  | { readonly kind: "absent"; readonly database: string }
  | { readonly kind: "read"; readonly names: ReadonlySet<string> }
  /** It is there, and what it says is not known. */
  | { readonly kind: "unreadable"; readonly why: string };

/** More rows than any server has slots: nothing of ours. */
export const MOST_FLAGS = 10_000;

/** The registry from its rows. They are somebody else's words: what no slot can be called is passed over (I13). */
export function registryOf(names: readonly unknown[]): Registry {
  if (names.length > MOST_FLAGS)
    return {
      kind: "unreadable",
      why: `${REGISTRY_TABLE} on the primary has more than ${MOST_FLAGS} rows: DELETE those that name no slot`,
    };
  return {
    kind: "read",
    names: new Set(names.filter((name) => typeof name === "string").filter(isValidSlotName)),
  };
}

/** Whether the registry flags a slot of this name; what it said of it before, by the journal, while it cannot be read. */
export function isFlaggedIn(registry: Registry, name: string, before: boolean): boolean {
  return registry.kind === "read" ? registry.names.has(name) : before;
}

/** Why a registry of somebody else's is not read, with the remedy; `role` as SQL takes it. */
export function untrustedOwner(database: string, role: string): string {
  return `${REGISTRY_TABLE} in database "${database}", or its schema, belongs to a role that could have it do things in our name: if you know what that role has made there, let a superuser run ALTER SCHEMA slotsync OWNER TO ${role}; ALTER TABLE ${REGISTRY_TABLE} OWNER TO ${role}; else DROP it, and flag the slots again`;
}
