/** What the standby's data directory looks like: the slot folders that no slot in memory has, and how many the next start takes. */
import { DataDirectoryError } from "../datadir/errors.ts";
import { isAlive, readIdentity, verifyDirectory } from "../datadir/identity.ts";
import { readPatroniSlots } from "../datadir/patroni.ts";
import { LibraryFolders } from "../datadir/plugins.ts";
import { nextStart, readSettings } from "../datadir/settings.ts";
import { listSlotFolders } from "../datadir/slot-folders.ts";
import type { FilesView, SlotFolder } from "../domain/observation.ts";
import type { PatroniSlots } from "../domain/patroni.ts";
import type { Reason } from "../domain/protection.ts";

/** What the server says of itself, for comparison with the directory. */
export interface ServerFacts {
  systemIdentifier: string;
  major: number;
  startedEpochS: number;
  port: number;
  maxReplicationSlots: number;
  walLevel: string;
  /** Slots in memory. */
  loaded: ReadonlySet<string>;
}

/** Settings files are read again after this time at the latest. */
const SETTINGS_FOR_MS = 5_000;

/** postmaster.pid has whole seconds, written a moment before what the server shows. */
const SAME_START_S = 2;

/** One data directory; what does not change between two looks is not read again. */
export class DataDirectory {
  readonly path: string;
  /** Whether the last look found the very directory of the server that was asked, usable or not. */
  belongs = false;
  readonly #libraries: LibraryFolders;
  #verified = "";
  #settings: ({ at: number; patroni: PatroniSlots | null } & Awaited<ReturnType<typeof nextStart>>) | null =
    null;

  constructor(path: string) {
    this.path = path;
    this.#libraries = new LibraryFolders(path);
  }

  /** Looks at it beside a running server. What is wrong with it is part of the answer; never throws for a file's sake. */
  async look(server: ServerFacts): Promise<FilesView> {
    try {
      this.belongs = false;
      await this.#verify(server);
      this.belongs = true;
      const { major, loaded } = server;
      const folders = await listSlotFolders(this.path, major, { known: loaded });
      const { maxReplicationSlots, walLevel, hotStandby, patroni } = await this.#nextStart(server);
      const problem = whyNotOver(this.path, major, walLevel, hotStandby);
      return {
        problem,
        folders: folders.filter(({ name }) => !loaded.has(name)).map(toFolder),
        folderCount: folders.length,
        maxReplicationSlots,
        ...(patroni === null ? {} : { patroni }),
      };
    } catch (error) {
      if (!(error instanceof DataDirectoryError)) throw error;
      this.belongs ||= error.reason === "not_writable";
      const reason: Reason = error.reason === "not_writable" ? "permission_denied" : "restart_pending";
      return {
        problem: { reason, detail: error.message },
        folders: [],
        folderCount: 0,
        maxReplicationSlots: null,
      };
    }
  }

  /** The same for a server that is stopped; `loaded` are the slots that it had. Throws DataDirectoryError. */
  async lookStopped(major: number, loaded: ReadonlySet<string>): Promise<FilesView> {
    const folders = await listSlotFolders(this.path, major);
    const { maxReplicationSlots, walLevel, hotStandby } = await nextStart(this.path, major, null);
    return {
      problem: whyNotOver(this.path, major, walLevel, hotStandby),
      folders: folders.filter(({ name }) => !loaded.has(name)).map(toFolder),
      folderCount: folders.length,
      maxReplicationSlots,
    };
  }

  /** The names of the libraries that the server finds with this `dynamic_library_path`; null when they cannot be seen. */
  libraries(libraryPath: string | null): Promise<ReadonlySet<string> | null> {
    return this.#libraries.look(libraryPath);
  }

  /** The settings of recovery.conf, of which a server before 12 tells nothing. */
  async recoverySettings(): Promise<{ primaryConninfo: string | null; primarySlotName: string | null }> {
    const settings = await readSettings(this.path, 11);
    return {
      primaryConninfo: settings.get("primary_conninfo") ?? null,
      primarySlotName: settings.get("primary_slot_name") ?? "",
    };
  }

  /** Throws DataDirectoryError unless the server that was started then (s since the epoch; null for none) is at work here. */
  async assertRun(startedEpochS: number | null): Promise<void> {
    const { running } = await readIdentity(this.path);
    const same =
      startedEpochS === null
        ? running === null || !isAlive(running)
        : running !== null && Math.abs(running.startEpochS - startedEpochS) <= SAME_START_S;
    if (!same)
      throw new DataDirectoryError(
        "another_server",
        this.path,
        "was taken up by another run of the server meanwhile: what was planned is planned anew",
      );
  }

  async #verify({ systemIdentifier, major, startedEpochS, port }: ServerFacts): Promise<void> {
    const server = `${systemIdentifier} ${major} ${startedEpochS} ${port}`;
    if (this.#verified === server) return;
    await verifyDirectory(this.path, {
      systemIdentifier,
      major,
      server: { startEpochS: startedEpochS, port },
    });
    this.#verified = server;
    this.#libraries.forget();
    this.#settings = null;
  }

  async #nextStart({ major, maxReplicationSlots, walLevel }: ServerFacts) {
    if (this.#settings && performance.now() - this.#settings.at < SETTINGS_FOR_MS) return this.#settings;
    const next = await nextStart(this.path, major, { maxReplicationSlots, walLevel });
    this.#settings = { at: performance.now(), patroni: await readPatroniSlots(this.path), ...next };
    return this.#settings;
  }
}

function toFolder({ name, state }: Awaited<ReturnType<typeof listSlotFolders>>[number]): SlotFolder {
  if (state === null || state.databaseOid === 0) return { name, state: null };
  const { databaseOid, plugin, twoPhase, restartLsn, confirmedFlushLsn } = state;
  return { name, state: { databaseOid, plugin, twoPhase, restartLsn, confirmedFlushLsn } };
}

/** I11: with these settings a server does not start over a logical slot. */
function whyNotOver(path: string, major: number, walLevel: string | null, hotStandby: boolean | null) {
  const refused = (setting: string, needed: string) => ({
    reason: "restart_pending" as const,
    detail: `the settings in ${path} say ${setting} for the next start, over which PostgreSQL ${major} does not start with a logical slot: set ${needed} there, then it is staged`,
  });
  if (walLevel !== "logical" && walLevel !== null)
    return refused(`wal_level = ${walLevel}`, "wal_level = logical");
  return major >= 16 && hotStandby === false ? refused("hot_standby = off", "hot_standby = on") : null;
}

/** The data directory at that path, or null where none is given. */
export function directoryOf(path: string | null | undefined): DataDirectory | null {
  return path ? new DataDirectory(path) : null;
}
