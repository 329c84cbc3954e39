/** Files of the primary, read by SQL (`pg_read_binary_file`): any of them may be gone from one moment to the next. */
import type { PgSession } from "../pg/session.ts";
import { READ_SERVER_FILE } from "../pg/sql.ts";

const PIECE_BYTES = 1024 * 1024;

/** A slot's state file has a few hundred bytes. */
export const MOST_STATE_BYTES = 65_536;
/** A snapshot lists the transactions that were running, and those that had changed catalogs: four bytes each. */
export const MOST_SNAPSHOT_BYTES = 64 * 1024 * 1024;

/**
 * The whole file, or null when there is none. `path` is below the data directory and made of validated names only (I13). Throws for one of more
 * than `most` bytes: a file that another machine names is not read into memory whatever its size.
 */
export async function readServerFile(session: PgSession, path: string, most: number): Promise<Buffer | null> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of readServerFileInPieces(session, path)) {
    bytes += piece.length;
    if (bytes > most)
      throw new Error(
        `${path} on the primary has more than ${most} bytes, which no such file has: it is not read`,
      );
    pieces.push(piece);
  }
  return pieces.length === 0 ? null : Buffer.concat(pieces);
}

/** The same piece by piece; nothing at all when there is no such file. */
export async function* readServerFileInPieces(session: PgSession, path: string): AsyncGenerator<Uint8Array> {
  for (let offset = 0; ; offset += PIECE_BYTES) {
    const [row] = await session.query<{ content: string | null }>(
      READ_SERVER_FILE,
      [path, offset, PIECE_BYTES],
      { what: `reading ${path}` },
    );
    const content = row?.content ?? null;
    if (content === null) return;
    const piece = Buffer.from(content.slice(2), "hex");
    if (piece.length > 0) yield piece;
    if (piece.length < PIECE_BYTES) return;
  }
}
