/**
 * Holds: temporary copies of a guard, each in a session of its own that runs nothing else, for any ERROR there would drop it. A hold
 * dies with us, at the price of waiting longer; never of a change.
 */
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { copySlot } from "../pg/sql.ts";
import { advanceOne } from "./advance.ts";
import { expectDone } from "./errors.ts";

export class HoldKeeper {
  readonly #sessions = new Map<string, PgSession>();
  readonly #open: (database: string) => Promise<PgSession>;

  constructor(open: (database: string) => Promise<PgSession>) {
    this.#open = open;
  }

  /** Copies `from` to the temporary slot `hold`. */
  async create(database: string, hold: string, from: string): Promise<void> {
    await this.release(hold);
    const session = await this.#open(database);
    try {
      const what = `holding the position of "${from}"`;
      expectDone(await session.query(copySlot("standby"), [from, hold, true, "pgoutput"], { what }), what);
    } catch (error) {
      await session.close();
      throw error;
    }
    this.#sessions.set(hold, session);
  }

  /** Moves a hold to where it stands, which the server counts as use. Throws what it says, whereupon the hold is gone. */
  async touch(hold: string, at: Lsn): Promise<void> {
    const session = this.#sessions.get(hold);
    if (session) await advanceOne(session, "standby", hold, formatLsn(at));
  }

  /** Ends the session, and with it the slot. */
  async release(hold: string): Promise<void> {
    const session = this.#sessions.get(hold);
    this.#sessions.delete(hold);
    await session?.close();
  }

  async releaseAll(): Promise<void> {
    await Promise.all([...this.#sessions.keys()].map((hold) => this.release(hold)));
  }
}
