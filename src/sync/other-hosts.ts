/**
 * Whether a second server answers as primary where the first was found: two primaries at once take different changes at the same
 * positions, and which of them subscribers and standbys follow is for the operator to settle.
 */

import type { Problem } from "../domain/prerequisites.ts";
import { type AnsweringPrimary, splitBrainProblems } from "../domain/split-brain.ts";
import type { ConnInfo } from "../pg/conninfo.ts";
import type { PgSession } from "../pg/session.ts";
import { SERVER_IDENTITY } from "../pg/sql.ts";

interface IdentityRow {
  in_recovery: boolean;
  system_identifier: string;
  run: string;
  timeline: string | null;
}

type Identity = AnsweringPrimary & { inRecovery: boolean; run: string };

async function identify(session: PgSession): Promise<Identity> {
  const [[row] = []] = await session.script<IdentityRow>(SERVER_IDENTITY, {
    what: "asking which server it is",
  });
  if (!row) throw new Error("its answer is incomplete");
  return {
    target: session.target,
    systemIdentifier: row.system_identifier,
    timeline: row.timeline === null ? 0 : Number.parseInt(row.timeline, 16),
    inRecovery: row.in_recovery,
    run: row.run,
  };
}

/** Asks the others, all at once, on connections of their own; one that does not answer is no second primary that anybody could use. */
export async function findOtherPrimaries(
  session: PgSession,
  others: readonly ConnInfo[],
  open: (conn: ConnInfo) => Promise<PgSession>,
): Promise<Problem[]> {
  if (others.length === 0) return [];
  const here = await identify(session);
  if (here.inRecovery) return [];
  const answers = await Promise.all(
    others.map(async (conn) => {
      const other = await open(conn).catch(() => null);
      if (!other) return null;
      return identify(other)
        .catch(() => null)
        .finally(() => other.close());
    }),
  );
  return splitBrainProblems(
    here,
    // two addresses may lead to one server
    answers.filter((other) => other !== null && !other.inRecovery && other.run !== here.run) as Identity[],
  );
}
