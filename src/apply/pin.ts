/**
 * Pins: temporary slots on the primary that hold WAL and catalog rows for what is being staged, until it is proven (I4). Each is in a
 * session of its own that runs nothing else, for any ERROR there would drop it; they die with us (I12). All are made in the database
 * that the poll uses: what they hold is the whole cluster's, and a database with a pin in it cannot be dropped.
 */
import { isPinOf, pinName } from "../domain/names.ts";
import type { Pin } from "../domain/observation.ts";
import type { LogicalSlot } from "../domain/slot.ts";
import { xidPrecedesOrEquals } from "../domain/xid.ts";
import type { PgSession } from "../pg/session.ts";
import { COPY_PIN, CREATE_PIN, DROP_OWN_PIN, END_STRAY_PIN } from "../pg/sql.ts";
import { briefly } from "./advance.ts";

/** Opens a session on the primary; null for whatever database the poll uses. */
export type OpenPrimary = (purpose: string, database: string | null, patient: boolean) => Promise<PgSession>;

export class PinKeeper {
  readonly #open: OpenPrimary;
  readonly #instanceId: string;
  readonly #sessions = new Map<string, PgSession[]>();
  /** Names of slots that sessions of ours have, or are about to make. */
  readonly #alive = new Map<string, PgSession | null>();
  #serial: number;

  constructor(open: OpenPrimary, instanceId: string, now: number) {
    this.#open = open;
    this.#instanceId = instanceId;
    // a killed predecessor's may not be gone yet
    this.#serial = now;
  }

  /** Holds what all of the slots need: the oldest WAL, and the oldest rows. Returns the name of the pin with those. */
  async hold(slots: readonly LogicalSlot[]): Promise<string> {
    const placed = slots.filter((slot) => slot.restartLsn !== null);
    const wal = placed.reduce((a, b) => ((b.restartLsn ?? 0n) < (a.restartLsn ?? 0n) ? b : a));
    const rows = placed.reduce((a, b) => (needsOlderRows(b, a) ? b : a));
    const name = await this.#copy(rows);
    if (wal.name !== rows.name) {
      const other = await this.#copy(wal);
      this.#sessions.set(name, [...(this.#sessions.get(name) ?? []), ...(this.#sessions.get(other) ?? [])]);
      this.#sessions.delete(other);
    }
    return name;
  }

  /**
   * A new one, where there is no slot to copy. It waits for the transactions that are running on the primary, but not for long: all
   * that is to be done with slot files stands behind it.
   */
  create(): Promise<string> {
    return this.#make((session, name) =>
      briefly(session, () => session.query(CREATE_PIN, [name], { what: "pinning" })),
    );
  }

  #copy(slot: LogicalSlot): Promise<string> {
    return this.#make((session, name) =>
      session.query(COPY_PIN, [slot.name, name], { what: `pinning what slot "${slot.name}" needs` }),
    );
  }

  async #make(make: (session: PgSession, name: string) => Promise<unknown>): Promise<string> {
    this.#serial += 1;
    const name = pinName(this.#instanceId, this.#serial);
    this.#alive.set(name, null);
    let session: PgSession | null = null;
    try {
      session = await this.#open("pin", null, true);
      await make(session, name);
    } catch (error) {
      this.#alive.delete(name);
      await session?.close();
      throw error;
    }
    this.#alive.set(name, session);
    this.#sessions.set(name, [session]);
    return name;
  }

  /**
   * Ends those of the pins that are ours by their name (I7) and belong to no session of ours: a connection pooler keeps a session, and the
   * temporary slots in it, when the sidecar that made them has been killed. Returns those that could not be ended. `session` is any with
   * the primary that showed them.
   */
  async endStrays(pins: readonly Pin[], session: PgSession): Promise<Pin[]> {
    for (const [name, owner] of this.#alive) if (owner?.usable === false) this.#alive.delete(name);
    const strays = pins.filter(({ name }) => isPinOf(name, this.#instanceId) && !this.#alive.has(name));
    const left: Pin[] = [];
    for (const pin of strays) if (!(await endStray(pin, session))) left.push(pin);
    return left;
  }

  /** Lets go of all that nothing staged or unproven refers to any more. */
  async keepOnly(names: ReadonlySet<string>): Promise<void> {
    for (const [name, sessions] of [...this.#sessions]) {
      if (names.has(name) && sessions.every((session) => session.usable)) continue;
      this.#sessions.delete(name);
      await Promise.all(sessions.map((session) => session.close()));
    }
  }

  async close(): Promise<void> {
    await this.keepOnly(new Set());
  }
}

async function endStray({ name, pid }: Pin, session: PgSession): Promise<boolean> {
  const what = `ending the stray pin "${name}"`;
  if (pid === session.backendPid) {
    await session.query(DROP_OWN_PIN, [name], { what });
    return true;
  }
  const [row] = await session.query<{ ended: boolean }>(END_STRAY_PIN, [name, pid], { what });
  return row?.ended ?? false;
}

function needsOlderRows(a: LogicalSlot, b: LogicalSlot): boolean {
  if (a.catalogXmin === null || b.catalogXmin === null)
    return b.catalogXmin === null && a.catalogXmin !== null;
  return a.catalogXmin !== b.catalogXmin && xidPrecedesOrEquals(a.catalogXmin, b.catalogXmin);
}
