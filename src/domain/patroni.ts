/** Where Patroni and the sidecar are in each other's way. */
import { GUARD_PLUGIN } from "./plugins.ts";
import type { Problem } from "./prerequisites.ts";

/** An entry of Patroni's `ignore_slots`; null where it does not say. */
interface IgnoredSlots {
  name: string | null;
  type: string | null;
  database: string | null;
  plugin: string | null;
}

/** What Patroni is told to do with slots. */
export interface PatroniSlots {
  /** The logical ones among its own permanent slots (`slots:`). */
  permanentLogical: readonly string[];
  ignored: readonly IgnoredSlots[];
}

/**
 * Problems of a node that Patroni manages. Patroni drops each slot that it neither makes itself nor is told to ignore. And up to 4.1.4 its
 * check whether its own permanent logical slots are ready takes in every logical slot that is there when PostgreSQL starts, also those
 * that it is to ignore: for one that the primary does not have, as a guard, it compares nothing with a transaction id, and gives up.
 */
export function patroniProblems({ permanentLogical, ignored }: PatroniSlots): Problem[] {
  const problems: Problem[] = [];
  if (!ignored.some(coversGuards))
    problems.push({
      code: "patroni_drops_slots",
      severity: "warning",
      message:
        "Patroni drops slots that it does not know, and its ignore_slots do not cover the sidecar's guards: add an entry with type: logical and nothing else (patronictl edit-config)",
    });
  if (permanentLogical.length > 0)
    problems.push({
      code: "patroni_permanent_slots",
      severity: "warning",
      message: `Patroni keeps permanent logical slots itself (${permanentLogical.join(", ")}). Where the sidecar has guards, that ends at the next start of PostgreSQL: up to 4.1.4 Patroni then logs "'<=' not supported between instances of 'NoneType' and 'str'" in each loop, and its slots on this standby stay where they are. Let one tool keep the slots: with type: logical in ignore_slots, take them out of slots: (patronictl edit-config), and choose them here`,
    });
  return problems;
}

/** Guards are of any database and of names that nobody knows beforehand. */
function coversGuards({ name, type, database, plugin }: IgnoredSlots): boolean {
  const any = name === null && database === null;
  return any && (type ?? "logical") === "logical" && (plugin ?? GUARD_PLUGIN) === GUARD_PLUGIN;
}
