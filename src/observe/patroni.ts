/**
 * Where Patroni's REST API says the leader is: `GET /cluster`. It is believed for an address and nothing else; who answers there is asked
 * itself which cluster it is of and whether it is a primary.
 */
import * as z from "zod";
import { describeError } from "../pg/errors.ts";

/** A member's address, and whether it holds the leader lock. */
export interface Member {
  name: string;
  host: string;
  port: number;
  leader: boolean;
}

const cluster = z.object({
  members: z.array(
    z.object({
      name: z.string(),
      role: z.string(),
      // absent while a member has not told where it listens
      host: z.string().min(1).optional(),
      port: z.coerce.number().int().min(1).max(65535).optional(),
    }),
  ),
});

/** As older and newer releases call it; of a standby cluster the leader is no primary, which it says itself when it is asked. */
const LEADER_ROLES = ["leader", "standby_leader", "master"];

/** Every member that has an address. Throws an Error that says what was asked and why it will not do. */
export async function patroniMembers(url: string, signal: AbortSignal): Promise<Member[]> {
  const place = `${url.replace(/\/+$/, "")}/cluster`;
  let answer: unknown;
  try {
    const response = await fetch(place, { signal, redirect: "error", headers: { connection: "close" } });
    if (!response.ok) throw new Error(`HTTP status ${response.status}`);
    answer = await response.json();
  } catch (error) {
    throw new Error(`asking Patroni at ${place}: ${describeError(error)}`, { cause: error });
  }
  const parsed = cluster.safeParse(answer);
  if (!parsed.success) throw new Error(`asking Patroni at ${place}: the answer lists no members`);
  return parsed.data.members.flatMap(({ name, role, host, port }) =>
    host === undefined || port === undefined
      ? []
      : [{ name, host, port, leader: LEADER_ROLES.includes(role) }],
  );
}
