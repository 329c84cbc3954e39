import { isPgError, SQLSTATE } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { copySlot, dropSlot } from "../pg/sql.ts";
import { expectDone, ReasonedError } from "./errors.ts";

/** Sees whether this standby can load an output plugin, by a temporary copy of the guard. Throws ReasonedError when it cannot. */
export async function probePlugin(
  session: PgSession,
  work: string,
  from: string,
  plugin: string,
): Promise<void> {
  const what = `loading output plugin "${plugin}"`;
  try {
    expectDone(await session.query(copySlot("standby"), [from, work, true, plugin], { what }), what);
    await session.query(dropSlot("standby"), [work], { what });
  } catch (error) {
    if (!isPgError(error, SQLSTATE.undefinedFile)) throw error;
    throw new ReasonedError("plugin_missing", `output plugin "${plugin}" is not installed on this server`, {
      cause: error,
    });
  }
}
