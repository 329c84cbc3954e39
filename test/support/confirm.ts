/** A client of the replication protocol that confirms whatever it likes. */
import pg from "pg";
import { formatLsn, type Lsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { slotsOf } from "./slots.ts";
import { eventually } from "./wait.ts";

/** What pg has of a connection in copy mode; its types leave it out. */
interface CopyConnection {
  once(event: "replicationStart", listener: () => void): void;
  sendCopyFromChunk(chunk: Buffer): void;
}

/**
 * Confirms `lsn` for a test_decoding slot by a standby status update, as clients do that stream: no function of the server's takes a
 * position that is no record's. Resolves when the slot shows it; throws when another position is shown.
 */
export async function confirmByStream(server: PgServer, slot: string, lsn: Lsn): Promise<void> {
  const config: pg.ClientConfig & { replication: string } = {
    host: server.host,
    port: server.port,
    user: "postgres",
    database: "postgres",
    replication: "database",
  };
  const client = new pg.Client(config);
  client.on("error", () => {});
  await client.connect();
  const { connection } = client as unknown as { connection: CopyConnection };
  const started = new Promise<void>((resolve) => connection.once("replicationStart", resolve));
  const ended = client.query(`START_REPLICATION SLOT ${slot} LOGICAL 0/0`).catch(() => {});
  await started;
  connection.sendCopyFromChunk(statusUpdate(lsn));
  const shown = async () => (await slotsOf(server)).get(slot)?.confirmed === formatLsn(lsn);
  await eventually(shown, { what: `slot "${slot}" to stand at ${formatLsn(lsn)}` });
  await client.end();
  await ended;
}

/** Received, flushed and applied up to there; no answer is asked for. */
function statusUpdate(lsn: Lsn): Buffer {
  const message = Buffer.alloc(34);
  message.write("r", 0, "latin1");
  for (const offset of [1, 9, 17]) message.writeBigUInt64BE(lsn, offset);
  return message;
}
