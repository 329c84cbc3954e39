import { eventually } from "../../src/sandbox/poll.ts";
import type { PgServer } from "../../src/sandbox/server.ts";

/** One line of a logical slot's output. */
export interface Change {
  lsn: string;
  xid: string;
  data: string;
}

export interface ReadOptions {
  database?: string;
  /** leave the slot where it is */
  peek?: boolean;
  /** read up to this WAL position only */
  upto?: string;
  /** the plugin's options; those that make test_decoding short and repeatable when left out */
  pluginOptions?: Record<string, string>;
}

const TEST_DECODING_OPTIONS = { "skip-empty-xacts": "1", "include-xids": "0" };

/** Makes a logical slot, with test_decoding when no plugin is named. */
export async function createLogicalSlot(
  server: PgServer,
  name: string,
  { plugin = "test_decoding", database = "postgres" }: { plugin?: string; database?: string } = {},
): Promise<void> {
  await server.query(
    "select pg_catalog.pg_create_logical_replication_slot($1, $2)",
    [name, plugin],
    database,
  );
}

/** Reads a test_decoding slot through SQL; what was read is confirmed unless it is a peek. */
export async function readSlot(server: PgServer, name: string, options: ReadOptions = {}): Promise<Change[]> {
  const { database, peek = false, upto = null, pluginOptions = TEST_DECODING_OPTIONS } = options;
  const call = peek ? "pg_logical_slot_peek_changes" : "pg_logical_slot_get_changes";
  return server.query<Change>(
    `select lsn::text, xid::text, data from pg_catalog.${call}($1, $2::pg_lsn, null, variadic $3::text[])`,
    [name, upto, Object.entries(pluginOptions).flat()],
    database,
  );
}

/** The values of the first column of the rows that a test_decoding stream inserted, in its order. */
export function insertedIds(changes: Change[], table: string): number[] {
  const row = new RegExp(`^table [^:]*\\b${table}: INSERT: \\w+\\[\\w+\\]:(\\d+)`);
  return changes.flatMap(({ data }) => {
    const id = row.exec(data)?.[1];
    return id === undefined ? [] : [Number(id)];
  });
}

export interface SubscribeOptions {
  publisher: PgServer;
  subscriber: PgServer;
  /** the names of the subscription and of its slot; `sub1` when left out */
  name?: string;
  /** the tables to publish, which must be on both sides; all of the publisher's when left out */
  tables?: string[];
  /** where the subscriber reaches the publisher: a proxy */
  via?: { host: string; port: number };
  database?: string;
  /** more of `create subscription … with (…)`, for example { failover: "true" } */
  with?: Record<string, string>;
}

/** Sets up native logical replication and resolves when the initial copy is done. */
export async function subscribe(options: SubscribeOptions): Promise<void> {
  const { publisher, subscriber, name = "sub1", tables, via = publisher, database = "postgres" } = options;
  await publisher.query(
    `create publication ${name}_pub for ${tables ? `table ${tables.join(", ")}` : "all tables"}`,
    [],
    database,
  );
  const parameters = Object.entries(options.with ?? {}).map(([key, value]) => `${key} = ${value}`);
  await subscriber.query(
    `create subscription ${name} connection '${conninfo(via, database)}' publication ${name}_pub
      ${parameters.length > 0 ? `with (${parameters.join(", ")})` : ""}`,
    [],
    database,
  );
  await waitSubscribed(subscriber, name, database);
}

/** Resolves when the initial copies of a subscription's tables are done and it streams. */
export async function waitSubscribed(
  subscriber: PgServer,
  name: string,
  database = "postgres",
): Promise<void> {
  const sql = `select from pg_catalog.pg_subscription as sub
    join pg_catalog.pg_stat_subscription as stat on stat.subid = sub.oid and stat.relid is null and stat.pid is not null
    where sub.subname = $1 and not exists
      (select from pg_catalog.pg_subscription_rel where srsubid = sub.oid and srsubstate <> 'r')`;
  await eventually(async () => (await subscriber.query(sql, [name], database)).length > 0, {
    what: `subscription "${name}" to be ready`,
  });
}

/** Points a subscription at another publisher, as after a failover. */
export async function repoint(
  subscriber: PgServer,
  name: string,
  publisher: { host: string; port: number },
  database = "postgres",
): Promise<void> {
  await subscriber.query(
    `alter subscription ${name} connection '${conninfo(publisher, database)}'`,
    [],
    database,
  );
}

/** Resolves when the subscription's slot has confirmed all that the publisher had written when this was called. */
export async function waitForSubscriber(publisher: PgServer, slot = "sub1"): Promise<void> {
  const [now] = await publisher.query<{ lsn: string }>("select pg_catalog.pg_current_wal_lsn()::text as lsn");
  const sql = `select from pg_catalog.pg_replication_slots where slot_name = $1 and confirmed_flush_lsn >= $2::pg_lsn`;
  await eventually(async () => (await publisher.query(sql, [slot, now?.lsn])).length > 0, {
    what: `the subscriber of "${slot}" to confirm ${now?.lsn}`,
  });
}

function conninfo({ host, port }: { host: string; port: number }, database: string): string {
  return `host=${host} port=${port} user=postgres dbname=${database}`;
}
