/**
 * Bringing over the logical rewrite mappings that were written before a start loaded the slots that need them (I16). Whatever a slot sends
 * after a promotion begins past the `restart_lsn` of the primary's slot, which keeps there all mappings that its changes need. So what the
 * primary has now, once, after the slots were loaded here, is all that can be missing: later ones come with the WAL and are kept for them.
 */
import { hasMapping, placeMapping, removeMappingLeftovers, syncMappings } from "../datadir/mappings.ts";
import type { Action } from "../domain/action.ts";
import type { Lsn } from "../domain/lsn.ts";
import { isPgError, SQLSTATE } from "../pg/errors.ts";
import { rewriteBegan } from "../pg/mapping-file.ts";
import type { PgSession } from "../pg/session.ts";
import { listMappings, READ_MAPPINGS } from "../pg/sql.ts";
import { ReasonedError } from "./errors.ts";
import { readServerFileInPieces } from "./primary-files.ts";

type FetchMappings = Extract<Action, { kind: "fetch_mappings" }>;

export interface MappingsContext {
  /** The standby's data directory. */
  directory: string;
  /** A session on the primary in which reading may fail. */
  session: PgSession;
}

/** More than this is not brought over: a slot that needs it is proven once it has moved past its start. */
const MOST_FILES = 100_000;
const MOST_BYTES = 512 * 1024 * 1024;

/** There may be thousands, mostly of some hundred bytes: so many are read at once, … */
const FILES_AT_ONCE = 100;
/** … and of each so much; the rest of a larger one is read by itself. */
const FIRST_BYTES = 32 * 1024;

/**
 * Brings over what any of these slots may lack. Throws ReasonedError when the primary does not show its mappings or has too many of them,
 * DataDirectoryError, and what a session throws.
 */
export async function fetchMappings(
  actions: readonly FetchMappings[],
  { directory, session }: MappingsContext,
): Promise<void> {
  const from = actions.reduce((least, { restart }) => (restart < least ? restart : least), MAX_LSN);
  const upTo = actions.reduce((most, each) => (each.upTo > most ? each.upTo : most), 0n as Lsn);
  const missing: string[] = [];
  for (const name of await mappingsThere(session)) {
    const began = rewriteBegan(name);
    // before: no slot needs it, and a restartpoint would remove it; after: it comes with the WAL, a slot being there to keep it
    if (began === null || began < from || began >= upTo) continue;
    if (!(await hasMapping(directory, name))) missing.push(name);
  }
  if (missing.length === 0) return;
  await removeMappingLeftovers(directory);
  const budget = { left: MOST_BYTES };
  for (let at = 0; at < missing.length; at += FILES_AT_ONCE)
    for await (const { name, first } of readFirst(session, missing.slice(at, at + FILES_AT_ONCE)))
      await placeMapping(directory, name, within(budget, whole(session, name, first)));
  await syncMappings(directory);
}

const MAX_LSN = 0xffff_ffff_ffff_ffffn as Lsn;

async function* readFirst(session: PgSession, names: readonly string[]) {
  const rows = await session.query<{ name: string; content: string | null }>(
    READ_MAPPINGS,
    [names, FIRST_BYTES],
    { what: "reading the rewrite mappings" },
  );
  // one that is gone meanwhile no slot of the primary needs any more
  for (const { name, content } of rows)
    if (content !== null) yield { name, first: Buffer.from(content.slice(2), "hex") };
}

async function* whole(session: PgSession, name: string, first: Buffer): AsyncGenerator<Uint8Array> {
  if (first.length < FIRST_BYTES) yield first;
  else yield* readServerFileInPieces(session, `pg_logical/mappings/${name}`);
}

async function mappingsThere(session: PgSession): Promise<string[]> {
  try {
    const rows = await session.query<{ name: string }>(
      listMappings(session.serverVersionNum, MOST_FILES + 1),
      [],
      { what: "listing the rewrite mappings" },
    );
    if (rows.length > MOST_FILES)
      throw new ReasonedError(
        "rewrite_mappings_unproven",
        `the primary has more than ${MOST_FILES} files in pg_logical/mappings, too many to be brought over: ${UNTIL_IT_MOVES}`,
      );
    return rows.map(({ name }) => name);
  } catch (error) {
    if (!isPgError(error, SQLSTATE.insufficientPrivilege)) throw error;
    throw new ReasonedError(
      "permission_denied",
      `the role on the primary may not list pg_logical/mappings, so whether the slot has all it needs after a VACUUM FULL of catalogs cannot be told: ${
        session.serverVersionNum >= 150_000
          ? "GRANT pg_monitor TO it"
          : "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO it, in the database that it polls"
      }`,
      { cause: error },
    );
  }
}

const UNTIL_IT_MOVES =
  "the slot is safe once its restart_lsn has moved past the start that loaded it, for which its subscriber must go on";

async function* within(
  budget: { left: number },
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    budget.left -= chunk.length;
    if (budget.left < 0)
      throw new ReasonedError(
        "rewrite_mappings_unproven",
        `the primary's pg_logical/mappings holds more than ${MOST_BYTES / 1024 / 1024} MiB that is missing here, too much to be brought over: ${UNTIL_IT_MOVES}`,
      );
    yield chunk;
  }
}
