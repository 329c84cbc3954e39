/**
 * Subscribers: one logical replication stream for each slot (pgoutput, a publication without tables, so that they receive nothing and
 * cost little), which confirms positions. What they confirm, and when, is remembered: the yardstick of staleness.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { type Lsn, parseLsn } from "../src/domain/lsn.ts";
import type { PgServer } from "../src/sandbox/server.ts";

export const PUBLICATION = "bench_nothing";

export interface SlotName {
  name: string;
  database: string;
}

/** The positions of one slot on the primary, in their order. */
export class Moves {
  readonly #times: number[] = [];
  readonly #positions: Lsn[] = [];

  add(at: number, position: Lsn): void {
    if (position <= this.last) return;
    this.#times.push(at);
    this.#positions.push(position);
  }

  get last(): Lsn {
    return this.#positions.at(-1) ?? (0n as Lsn);
  }

  /** How long, at the moment `now`, the primary's slot has stood past this position; 0 when it does not. */
  ageOf(position: Lsn, now: number): number {
    let [low, high] = [0, this.#positions.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#positions[middle] as Lsn) > position) high = middle;
      else low = middle + 1;
    }
    const since = this.#times[low];
    return since === undefined ? 0 : Math.max(0, now - since);
  }
}

/** What pg does not declare. */
interface Wire {
  once(event: "replicationStart", listener: () => void): void;
  sendCopyFromChunk(chunk: Buffer): void;
}

interface Stream {
  client: pg.Client;
  wire: Wire;
  moves: Moves;
}

export class Consumers {
  readonly #primary: PgServer;
  readonly #streams = new Map<string, Stream>();
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[] = [];
  readonly #askers: pg.Client[] = [];

  constructor(primary: PgServer) {
    this.#primary = primary;
  }

  get names(): string[] {
    return [...this.#streams.keys()];
  }

  /** Begins to stream from a slot. */
  async add({ name, database }: SlotName): Promise<void> {
    const more = { replication: "database" } as pg.ClientConfig;
    const client = await this.#primary.connect(database, "postgres", more);
    const { connection: wire } = client as unknown as { connection: Wire };
    await new Promise<void>((resolve, reject) => {
      wire.once("replicationStart", resolve);
      const sql = `START_REPLICATION SLOT ${name} LOGICAL 0/0 (proto_version '1', publication_names '${PUBLICATION}')`;
      client.query(sql).then(() => reject(new Error(`the stream of "${name}" has ended`)), reject);
    });
    this.#streams.set(name, { client, wire, moves: new Moves() });
  }

  async addAll(slots: readonly SlotName[]): Promise<void> {
    const queue = [...slots];
    const worker = async () => {
      for (let slot = queue.shift(); slot; slot = queue.shift()) await this.add(slot);
    };
    await Promise.all(Array.from({ length: 8 }, worker));
  }

  moves(name: string): Moves {
    const stream = this.#streams.get(name);
    if (!stream) throw new Error(`nobody reads "${name}"`);
    return stream.moves;
  }

  /** Confirms a position, as a subscriber's feedback message does. */
  confirm(name: string, position: Lsn): void {
    const stream = this.#streams.get(name);
    if (!stream || position <= stream.moves.last) return;
    const message = Buffer.alloc(34);
    message.write("r");
    for (const offset of [1, 9, 17]) message.writeBigUInt64BE(position, offset);
    stream.wire.sendCopyFromChunk(message);
    stream.moves.add(performance.now(), position);
  }

  /**
   * Every slot confirms each `everyMs`: the end of WAL, or what `choose` makes of that. In groups one after the other, so that they
   * stand at different positions.
   */
  async start(everyMs: number, choose?: (name: string, flushed: Lsn) => Lsn): Promise<void> {
    const groups = 4;
    for (let group = 0; group < groups; group++) {
      const asker = await this.#primary.connect();
      this.#askers.push(asker);
      this.#loops.push(
        this.#keepConfirming(asker, everyMs, (everyMs / groups) * group, [group, groups], choose),
      );
    }
  }

  async #keepConfirming(
    asker: pg.Client,
    everyMs: number,
    offsetMs: number,
    [group, groups]: [number, number],
    choose = (_name: string, flushed: Lsn) => flushed,
  ): Promise<void> {
    const { signal } = this.#stopping;
    await sleep(offsetMs);
    for (let due = performance.now(); !signal.aborted; ) {
      const flushed = await flushedLsn(asker);
      if (flushed === null) return;
      const mine = this.names.filter((_, index) => index % groups === group);
      for (const name of mine) this.confirm(name, choose(name, flushed));
      due = Math.max(due + everyMs, performance.now());
      await sleep(due - performance.now());
    }
  }

  /** Ends the confirming; the streams stay. */
  async pause(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  async stop(): Promise<void> {
    await this.pause();
    const clients = [...this.#streams.values()].map(({ client }) => client);
    // not asked politely: a stream in copy mode answers only once all is sent
    for (const client of clients)
      (client as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    this.#streams.clear();
    await Promise.all(this.#askers.map((asker) => asker.end().catch(() => {})));
  }
}

async function flushedLsn(asker: pg.Client): Promise<Lsn | null> {
  try {
    const sql = "select pg_catalog.pg_current_wal_flush_lsn()::text as lsn";
    const text = (await asker.query<{ lsn: string }>(sql)).rows[0]?.lsn;
    return text ? parseLsn(text) : null;
  } catch {
    // the primary has been killed: nobody confirms any more
    return null;
  }
}
