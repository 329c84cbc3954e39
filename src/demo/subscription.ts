/** The demo's native subscriber. */
import { formatLsn, type Lsn, parseLsn, parseLsnOrNull } from "../domain/lsn.ts";
import type { PgServer } from "../sandbox/server.ts";
import { waitFor } from "./wait.ts";
import { TABLE } from "./writers.ts";

const PUBLICATION = "demo_pub";

export class Subscription {
  /** The subscription's name and its slot's. */
  readonly slot: string;
  /** ms since the epoch */
  readonly createdAt: number;
  readonly #subscriber: PgServer;

  private constructor(subscriber: PgServer, slot: string, createdAt: number) {
    this.#subscriber = subscriber;
    this.slot = slot;
    this.createdAt = createdAt;
  }

  /** Subscribes to the table, whose rows are copied first. */
  static async create(subscriber: PgServer, publisher: PgServer, slot: string): Promise<Subscription> {
    await publisher.query(`create publication ${PUBLICATION} for table ${TABLE}`);
    // without a primary key: a row that came twice would be seen, not refused
    await subscriber.query(`create table ${TABLE} (id bigint, writer integer)`);
    await subscriber.query(
      `create subscription ${slot} connection '${conninfo(publisher)}' publication ${PUBLICATION}`,
    );
    return new Subscription(subscriber, slot, Date.now());
  }

  /** Resolves when the initial copy is done. */
  async waitCopied(signal: AbortSignal): Promise<void> {
    await waitFor(
      async () => {
        const [row] = await this.#subscriber.query<{ copied: boolean }>(
          "select count(*) > 0 and bool_and(srsubstate = 'r') as copied from pg_catalog.pg_subscription_rel",
        );
        return row?.copied;
      },
      { what: "the subscription's initial copy", signal },
    );
  }

  /**
   * Points the subscription at the new primary, whose WAL taken over from the old one ends at `endOfWal`. Replication is asynchronous:
   * the old primary may have sent the subscriber transactions that it did not get to send the standby. Such a subscriber would ask the
   * new primary to go on beyond the end of what it has, and would miss what is written there first; so its position is put back to
   * that end, up to which it has everything. True when that was necessary.
   */
  async repoint(publisher: PgServer, endOfWal: Lsn, signal: AbortSignal): Promise<boolean> {
    await this.#subscriber.query(`alter subscription ${this.slot} disable`);
    await waitFor(
      async () => {
        const running = "select from pg_catalog.pg_stat_subscription where subname = $1 and pid is not null";
        return (await this.#subscriber.query(running, [this.slot])).length === 0;
      },
      { what: "the subscription's worker to end", signal },
    );
    const [origin] = await this.#subscriber.query<{ name: string; lsn: string | null }>(
      `select 'pg_' || oid as name, pg_catalog.pg_replication_origin_progress('pg_' || oid, false)::text as lsn
         from pg_catalog.pg_subscription where subname = $1`,
      [this.slot],
    );
    const ahead = (parseLsnOrNull(origin?.lsn ?? null) ?? 0n) > endOfWal;
    await this.#subscriber.query(`alter subscription ${this.slot} connection '${conninfo(publisher)}'`);
    if (ahead)
      await this.#subscriber.query("select pg_catalog.pg_replication_origin_advance($1, $2::pg_lsn)", [
        origin?.name,
        formatLsn(endOfWal),
      ]);
    await this.#subscriber.query(`alter subscription ${this.slot} enable`);
    return ahead;
  }

  /** Resolves when the subscriber has confirmed all that the publisher has written until now. */
  async waitCaughtUp(publisher: PgServer, signal: AbortSignal): Promise<void> {
    const [now] = await publisher.query<{ lsn: string }>(
      "select pg_catalog.pg_current_wal_insert_lsn()::text as lsn",
    );
    const target = parseLsn(now?.lsn ?? "");
    await waitFor(
      async () => {
        const [row] = await publisher.query<{ lsn: string }>(
          "select confirmed_flush_lsn::text as lsn from pg_catalog.pg_replication_slots where slot_name = $1",
          [this.slot],
        );
        if (!row) throw new Error(`the new primary has no slot "${this.slot}"`);
        return parseLsn(row.lsn) >= target;
      },
      { what: "the subscription to catch up with the new primary", signal },
    );
  }

  /** The subscriber's rows; a repeated one is there twice. */
  async rows(): Promise<number[]> {
    return rowsOf(this.#subscriber);
  }
}

/** The rows of a server. */
export async function rowsOf(server: PgServer): Promise<number[]> {
  return (await server.query<{ id: string }>(`select id from ${TABLE}`)).map((row) => Number(row.id));
}

function conninfo({ host, port }: PgServer): string {
  return `host=${host} port=${port} user=postgres dbname=postgres`;
}
