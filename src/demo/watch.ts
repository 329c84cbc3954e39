/** Watches how the standby protects the slots, as the sidecar has written it down. */

import type { JournalState } from "../domain/journal.ts";
import { bytesBetween, type Lsn } from "../domain/lsn.ts";
import { isProven } from "../domain/proof.ts";
import { isFailoverReady } from "../domain/protection.ts";
import { buildStatus, type SlotStatus, type Status } from "../domain/status.ts";
import { DataDirectory } from "../observe/files.ts";
import { observePrimary } from "../observe/primary.ts";
import { observeStandby } from "../observe/standby.ts";
import { parseConnInfo } from "../pg/conninfo.ts";
import { openSession, type PgSession } from "../pg/session.ts";
import { sleep } from "../pg/sleep.ts";
import type { PgServer } from "../sandbox/server.ts";
import type { SidecarProcess } from "./sidecar-process.ts";

interface WatchedSlot extends SlotStatus {
  /** WAL on the primary that the slot's reader has not confirmed. */
  unreadBytes: number | null;
  /** Its file lies where the standby's next start finds it. */
  staged: boolean;
}

export interface View {
  status: Status;
  /** Whether every database's guard is there, and protects what is made from now on. */
  guarding: boolean;
  slots: WatchedSlot[];
}

export interface WatchOptions {
  primary: PgServer;
  standby: PgServer;
  sidecar: SidecarProcess;
  onView: (view: View) => void;
}

const EVERY_MS = 40;

export class Watch {
  /** When each slot was first seen to be protected, ms since the epoch. */
  readonly protectedAt = new Map<string, number>();
  #view: View | null = null;
  #failure: unknown = null;
  readonly #stopping = new AbortController();
  readonly #loop: Promise<void>;

  constructor(options: WatchOptions) {
    this.#loop = this.#run(options).catch((error: unknown) => {
      this.#failure = error;
    });
  }

  /** The newest view; null before the first. Throws what ended the watch. */
  get view(): View | null {
    if (this.#failure) throw this.#failure;
    return this.#view;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#loop;
  }

  async #run({ primary, standby, sidecar, onView }: WatchOptions): Promise<void> {
    const sessions: PgSession[] = [];
    const directory = new DataDirectory(standby.dataDir);
    try {
      const [onPrimary, onStandby] = [await open(primary), await open(standby)];
      sessions.push(onPrimary, onStandby);
      while (!this.#stopping.signal.aborted) {
        const { walLsn, slots } = await observePrimary(onPrimary, "");
        const look = await observeStandby(onStandby, directory);
        const journal = await sidecar.journal();
        if (journal) {
          const status = buildStatus(journal, look.view, [], "journal");
          const confirmed = new Map(slots.map((slot) => [slot.name, slot.confirmedFlushLsn]));
          this.#note(status);
          this.#view = {
            status,
            guarding: isGuarding(journal, status),
            slots: status.slots.map((slot) => ({
              ...slot,
              unreadBytes: behind(confirmed.get(slot.name), walLsn),
              staged: status.restart?.staged.includes(slot.name) ?? false,
            })),
          };
          onView(this.#view);
        }
        await sleep(EVERY_MS, this.#stopping.signal);
      }
    } finally {
      await Promise.all(sessions.map((session) => session.close()));
    }
  }

  #note(status: Status): void {
    for (const { name, protection, since } of status.slots)
      if (isFailoverReady(protection) && !this.protectedAt.has(name))
        this.protectedAt.set(name, Date.parse(since));
  }
}

function isGuarding({ guards }: JournalState, status: Status): boolean {
  return (
    status.guards.length > 0 &&
    status.guards.every((guard) => guard.confirmedFlushLsn !== null) &&
    Object.values(guards).every(({ state, proof }) => state === "owned" && isProven(proof))
  );
}

function open(server: PgServer): Promise<PgSession> {
  return openSession(parseConnInfo(server.dsn()), {
    applicationName: "slotsync demo",
    statementTimeoutMs: 5_000,
    queryTimeoutMs: 6_000,
    connectTimeoutMs: 5_000,
  });
}

function behind(confirmed: Lsn | null | undefined, walLsn: Lsn): number | null {
  return confirmed ? Math.max(0, bytesBetween(confirmed, walLsn)) : null;
}
