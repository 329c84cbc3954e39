/** Whatever a database can be made to write, by several sessions at once: each makes its own choices from its seed, the timing is the machine's. */
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { Stoppable } from "./commotion.ts";
import { type Random, randomFrom } from "./writers.ts";

/** How often each kind of work was done, over all sessions: what a run has tried. */
export type Tally = Map<string, number>;

/** Settings that let prepared transactions be, and make large transactions spill to disk early. */
export function richSettings(major: number): Record<string, string | number | boolean> {
  return { max_prepared_transactions: 40, ...(major >= 13 ? { logical_decoding_work_mem: "64kB" } : {}) };
}

/** The tables that the sessions share; each has its own besides. */
export async function prepareRichTables(primary: PgServer): Promise<void> {
  for (const table of ["shared_0", "shared_1"])
    await primary.query(
      `create table ${table} (id bigserial primary key, writer integer, note text, large text);
       alter table ${table} alter column large set storage external`,
    );
  await primary.query("alter table shared_1 replica identity full");
}

/** Starts the sessions. They stop when they are told to, or when the server is gone. */
export function startRichWorkload(
  primary: PgServer,
  seed: number,
  sessions: number,
  tally: Tally,
): Stoppable {
  const stopping = new AbortController();
  const loops = Array.from({ length: sessions }, (_, index) =>
    keepAtWork(primary, index, randomFrom(seed * 101 + index), tally, stopping.signal),
  );
  return {
    stop: async () => {
      stopping.abort();
      await Promise.all(loops);
    },
  };
}

const CATALOGS = [
  "pg_class",
  "pg_attribute",
  "pg_type",
  "pg_index",
  "pg_attrdef",
  "pg_depend",
  "pg_constraint",
];

/** Moves all rows of some catalogs, and has others cleaned; while sessions change them. Who waits for too long gives up. */
export async function rewriteSomeCatalogs(primary: PgServer, random: Random, tally: Tally): Promise<void> {
  const client = await primary.connect();
  try {
    await client.query("set lock_timeout = '300ms'");
    for (const catalog of CATALOGS) {
      if (random() < 0.4) continue;
      const how = random() < 0.75 ? "vacuum full" : "vacuum";
      await done(tally, `${how} of a catalog`, () => client.query(`${how} pg_catalog.${catalog}`));
    }
    if (random() < 0.3)
      await done(tally, "reindex of a catalog", () => client.query("reindex table pg_catalog.pg_class"));
  } finally {
    await client.end();
  }
}

async function keepAtWork(
  primary: PgServer,
  session: number,
  random: Random,
  tally: Tally,
  stopped: AbortSignal,
): Promise<void> {
  let client: pg.Client | null = null;
  try {
    client = await primary.connect();
    client.on("error", () => {});
    await client.query("set lock_timeout = '400ms'; set deadlock_timeout = '50ms'");
    const worker = new Worker(client, session, random, tally);
    while (!stopped.aborted) {
      await worker.transaction();
      await sleep(20 + random() * 80);
    }
    await worker.settle();
  } catch {
    // the server is gone
  } finally {
    await client?.end().catch(() => {});
  }
}

/** Counts it when it went well. An error of the server is part of the work: the transaction is rolled back. */
async function done(tally: Tally, what: string, run: () => Promise<unknown>): Promise<boolean> {
  try {
    await run();
    tally.set(what, (tally.get(what) ?? 0) + 1);
    return true;
  } catch (error) {
    if (
      typeof (error as { code?: unknown }).code !== "string" ||
      !/^[0-9A-Z]{5}$/.test((error as { code: string }).code)
    )
      throw error;
    return false;
  }
}

class Worker {
  readonly #client: pg.Client;
  readonly #session: number;
  readonly #random: Random;
  readonly #tally: Tally;
  #serial = 0;
  #prepared: string[] = [];
  /** Its own tables, by name; those made in a transaction that was rolled back are found missing and forgotten. */
  #tables: string[] = [];

  constructor(client: pg.Client, session: number, random: Random, tally: Tally) {
    this.#client = client;
    this.#session = session;
    this.#random = random;
    this.#tally = tally;
  }

  #pick<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.#random() * choices.length)] as T;
  }

  #name(kind: string): string {
    this.#serial += 1;
    return `${kind}_${this.#session}_${this.#serial}`;
  }

  #table(): string {
    const own = this.#tables.length > 0 && this.#random() < 0.5;
    return own ? this.#pick(this.#tables) : this.#pick(["shared_0", "shared_1"]);
  }

  #run(what: string, sql: string): Promise<boolean> {
    return done(this.#tally, what, () => this.#client.query(sql));
  }

  async transaction(): Promise<void> {
    if (this.#prepared.length > 0 && this.#random() < 0.5) return this.#endPrepared();
    if (this.#random() < 0.08) {
      await this.#run("message outside", "select pg_logical_emit_message(false, 'loose', 'message')");
      return;
    }
    const tables = [...this.#tables];
    await this.#client.query("begin");
    let sound = true;
    const steps = 1 + Math.floor(this.#random() * 6);
    for (let step = 0; sound && step < steps; step += 1) {
      sound = this.#random() < 0.25 ? await this.#subtransaction() : await this.#step();
      if (this.#random() < 0.3) await sleep(this.#random() * 60);
    }
    const kept = sound && (await this.#end());
    if (kept) return;
    await this.#client.query("rollback");
    this.#tables = tables;
  }

  /** True when the transaction has committed or is prepared. */
  async #end(): Promise<boolean> {
    const choice = this.#random();
    if (choice < 0.1) return false;
    if (choice < 0.25 && this.#prepared.length < 4) {
      const gid = this.#name("gid");
      if (!(await this.#run("prepare", `prepare transaction '${gid}'`))) return false;
      this.#prepared.push(gid);
      return true;
    }
    return this.#run("commit", "commit");
  }

  /** The oldest, again and again until it is: one that is left open keeps a guard from being made. */
  async #endPrepared(): Promise<void> {
    const [gid] = this.#prepared;
    const how = this.#random() < 0.8 ? "commit" : "rollback";
    if (await this.#run(`${how} prepared`, `${how} prepared '${gid}'`)) this.#prepared.shift();
    else await sleep(50);
  }

  /** Ends what is prepared: nobody else would. */
  async settle(): Promise<void> {
    while (this.#prepared.length > 0) await this.#endPrepared();
  }

  async #subtransaction(): Promise<boolean> {
    const tables = [...this.#tables];
    const savepoint = this.#name("s");
    await this.#client.query(`savepoint ${savepoint}`);
    let sound = true;
    for (let step = 0; sound && step < 3; step += 1) sound = await this.#step();
    if (sound && this.#random() < 0.6) return this.#run("subtransaction", `release ${savepoint}`);
    await this.#client.query(`rollback to ${savepoint}`);
    this.#tables = tables;
    return true;
  }

  #step(): Promise<boolean> {
    const table = this.#table();
    const writer = this.#session;
    const choice = this.#random();
    if (choice < 0.3)
      return this.#run(
        "insert",
        `insert into ${table} (writer, note) select ${writer}, 'note ' || n from generate_series(1, ${1 + Math.floor(this.#random() * 4)}) as n`,
      );
    if (choice < 0.4)
      return this.#run(
        "large value",
        `insert into ${table} (writer, note, large) select ${writer}, 'large', string_agg(md5(n::text || '${this.#name("v")}'), '') from generate_series(1, ${100 + Math.floor(this.#random() * 150)}) as n`,
      );
    if (choice < 0.43)
      return this.#run(
        "spilled",
        `insert into ${table} (writer, note) select ${writer}, repeat('spill ', 40) || n from generate_series(1, ${250 + Math.floor(this.#random() * 200)}) as n`,
      );
    if (choice < 0.6)
      return this.#run(
        "update",
        `update ${table} set note = note || '+', writer = ${writer} where id in (select id from ${table} where writer = ${writer} order by id desc limit 5)`,
      );
    if (choice < 0.66)
      return this.#run(
        "delete",
        `delete from ${table} where id in (select id from ${table} where writer = ${writer} limit 3)`,
      );
    if (choice < 0.7)
      return this.#run("message", `select pg_logical_emit_message(true, 'inside', '${this.#name("m")}')`);
    return this.#changeCatalogs();
  }

  async #changeCatalogs(): Promise<boolean> {
    const choice = this.#random();
    if (this.#tables.length === 0 || choice < 0.3) {
      const table = this.#name("own");
      const made = await this.#run(
        "create table",
        `create table ${table} (id bigserial primary key, writer integer, note text, large text)`,
      );
      if (made) this.#tables.push(table);
      return made;
    }
    const table = this.#pick(this.#tables);
    if (choice < 0.5)
      return this.#run(
        "add column",
        `alter table ${table} add column ${this.#name("c")} ${this.#pick(["integer", "text default 'x'", "numeric default 1.5", "timestamptz default now()"])}`,
      );
    if (choice < 0.65) {
      const renamed = this.#name("own");
      const done = await this.#run("rename", `alter table ${table} rename to ${renamed}`);
      if (done) this.#tables = this.#tables.map((each) => (each === table ? renamed : each));
      return done;
    }
    if (choice < 0.75)
      return this.#run(
        "change of type",
        `alter table ${table} alter column note type ${this.#pick(["varchar(2000)", "text"])}`,
      );
    if (choice < 0.85)
      return this.#run(
        "rename column",
        `alter table ${table} rename column large to ${this.#name("large")}; alter table ${table} add column large text`,
      );
    if (choice < 0.92) return this.#run("truncate", `truncate ${table}`);
    const dropped = await this.#run("drop table", `drop table ${table}`);
    if (dropped) this.#tables = this.#tables.filter((each) => each !== table);
    return dropped;
  }
}
