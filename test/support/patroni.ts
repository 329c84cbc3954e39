/** A REST API that answers `GET /cluster` as Patroni does, for the servers that a test names as its members. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";

export interface PatroniApi {
  url: string;
  /** Who holds the leader lock; null for nobody. */
  leader: PgServer | null;
}

export async function startPatroniApi(
  members: readonly PgServer[],
  leader: PgServer | null,
): Promise<PatroniApi> {
  const api: PatroniApi = { url: "", leader };
  const server = createServer((request, response) => {
    const known = request.method === "GET" && request.url === "/cluster";
    response.writeHead(known ? 200 : 404, { "content-type": "application/json" });
    response.end(
      JSON.stringify({
        members: members.map((member) => ({
          name: member.name,
          role: member === api.leader ? "leader" : "replica",
          state: member === api.leader ? "running" : "streaming",
          api_url: `http://${member.host}:8008/patroni`,
          host: member.host,
          port: member.port,
          timeline: 1,
          ...(member === api.leader ? {} : { lag: 0 }),
        })),
        scope: "test",
      }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  api.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return api;
}
