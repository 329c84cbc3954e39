/** Files of the primary, read by SQL (`pg_read_binary_file`): any of them may be gone from one moment to the next. */
import type { PgSession } from "../pg/session.ts";
import { READ_SERVER_FILE } from "../pg/sql.ts";

const PIECE_BYTES = 1024 * 1024;

/** The whole file, or null when there is none. `path` is below the data directory and made of validated names only (I13). */
export async function readServerFile(session: PgSession, path: string): Promise<Buffer | null> {
  const pieces: Uint8Array[] = [];
  for await (const piece of readServerFileInPieces(session, path)) pieces.push(piece);
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
