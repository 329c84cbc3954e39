import { hasPlugin } from "../datadir/plugins.ts";
import { isPgError, SQLSTATE } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { copySlot, dropSlot, loadLibrary } from "../pg/sql.ts";
import { expectDone, missingPlugin, ReasonedError } from "./errors.ts";

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
    throw missingPlugin(plugin, error);
  }
}

/**
 * The same where nothing can be copied on a standby: whether the server's library folder has it, and where that cannot be found,
 * whether it loads, which takes a superuser. Throws ReasonedError.
 */
export async function probeLibrary(
  session: PgSession,
  directory: string | null,
  plugin: string,
): Promise<void> {
  const found = directory === null ? null : await hasPlugin(directory, plugin);
  if (found === true) return;
  if (found === false) throw missingPlugin(plugin);
  try {
    await session.script(loadLibrary(plugin), { what: `loading output plugin "${plugin}"` });
  } catch (error) {
    if (isPgError(error, SQLSTATE.undefinedFile)) throw missingPlugin(plugin, error);
    if (!isPgError(error, SQLSTATE.insufficientPrivilege)) throw error;
    throw new ReasonedError(
      "plugin_unproven",
      `whether output plugin "${plugin}" is installed on this server cannot be seen: let the sidecar run where the server's programs are, or let standby.dsn name a superuser`,
      { cause: error },
    );
  }
}
