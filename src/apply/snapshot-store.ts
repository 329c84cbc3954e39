/** Snapshots of what is staged, kept beside the journal until the standby has been started: before that, it would remove them (I2). */
import { constants, mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import path from "node:path";
import type { Lsn } from "../domain/lsn.ts";
import { snapshotFileName } from "../pg/snapshot-file.ts";

export class SnapshotStore {
  readonly #directory: string;

  constructor(stateDirectory: string) {
    this.#directory = path.join(stateDirectory, "snapshots");
  }

  /** Keeps the snapshot of that position, durably. */
  async save(lsn: Lsn, bytes: Uint8Array): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const target = this.#pathOf(lsn);
    const temporary = `${target}.tmp`;
    const { O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY } = constants;
    const file = await open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  }

  /** The snapshot of that position, or null. */
  async load(lsn: Lsn): Promise<Buffer | null> {
    return readFile(this.#pathOf(lsn)).catch(() => null);
  }

  /** Forgets all others; failures do not matter, for the next call tries again. */
  async keepOnly(lsns: Iterable<Lsn>): Promise<void> {
    const wanted = new Set([...lsns].map(snapshotFileName));
    const names = await readdir(this.#directory).catch(() => []);
    for (const name of names)
      if (!wanted.has(name)) await rm(path.join(this.#directory, name), { force: true }).catch(() => {});
  }

  #pathOf(lsn: Lsn): string {
    return path.join(this.#directory, snapshotFileName(lsn));
  }
}
