/** Clients of the demo: several connections whose transactions overlap, as in real life, and which know what they were promised. */
import type pg from "pg";
import { sleep } from "../pg/sleep.ts";
import type { PgServer } from "../sandbox/server.ts";

export const TABLE = "demo_rows";

const CONNECTIONS = 6;
const MAX_ROWS = 4;
const MAX_PAUSE_MS = 10;
const ROLLED_BACK = 0.1;
/** A server that was killed answers nothing more. */
const ANSWER_MS = 5_000;

export class Writers {
  /** Rows whose COMMIT was acknowledged. */
  readonly committed = new Set<number>();
  /** Rows whose connection broke before COMMIT was answered: they may be there or not. */
  readonly unknown = new Set<number>();
  readonly connections = CONNECTIONS;
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[];
  #server: PgServer;
  #nextId = 1;

  constructor(server: PgServer) {
    this.#server = server;
    this.#loops = Array.from({ length: CONNECTIONS }, (_, writer) => this.#keepWriting(writer));
  }

  /** From now on write to another server, as clients do after a failover. */
  retarget(server: PgServer): void {
    this.#server = server;
  }

  /** Lets the transactions end and disconnects. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  async #keepWriting(writer: number): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const server = this.#server;
      let client: pg.Client | undefined;
      try {
        client = await server.connect("postgres", "postgres", { query_timeout: ANSWER_MS });
        while (!signal.aborted && this.#server === server) await this.#writeTransaction(client, writer);
      } catch {
        // the server is dead or not yet a primary: what became of the rows is noted where it happened
        await sleep(20, signal);
      } finally {
        client?.end().catch(() => {});
      }
    }
  }

  async #writeTransaction(client: pg.Client, writer: number): Promise<void> {
    const ids: number[] = [];
    await client.query("begin");
    const count = 1 + Math.floor(Math.random() * MAX_ROWS);
    for (let row = 0; row < count; row++) {
      const id = this.#nextId++;
      ids.push(id);
      await client.query(`insert into ${TABLE} values ($1, $2)`, [id, writer]);
      // not ended by stop(): a transaction that has begun is ended in order
      await new Promise((resolve) => setTimeout(resolve, Math.random() * MAX_PAUSE_MS));
    }
    if (Math.random() < ROLLED_BACK) {
      await client.query("rollback");
      return;
    }
    let outcome = this.unknown;
    try {
      await client.query("commit");
      outcome = this.committed;
    } finally {
      for (const id of ids) outcome.add(id);
    }
  }
}
