import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { patroniMembers } from "../../src/observe/patroni.ts";

/** Serves one answer at /cluster. */
async function serve(status: number, body: string | null): Promise<string> {
  const server = createServer((request, response) => {
    // null: it takes the question and never answers
    if (body === null) return;
    response.writeHead(request.url === "/cluster" ? status : 404);
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const ask = (url: string, signal = new AbortController().signal) => patroniMembers(url, signal);
const member = (name: string, role: string, more: object = {}) => ({
  name,
  role,
  state: "running",
  host: "10.0.0.1",
  port: 5432,
  timeline: 3,
  ...more,
});
const leadersOf = async (...members: object[]) =>
  (await ask(await serve(200, JSON.stringify({ members, scope: "x" }))))
    .filter(({ leader }) => leader)
    .map(({ name }) => name);

test.each(["leader", "standby_leader", "master"])(
  "a member with the role %s holds the leader lock",
  async (role) => {
    expect(await leadersOf(member("a", "replica"), member("b", role), member("c", "sync_standby"))).toEqual([
      "b",
    ]);
  },
);

test("a member that has not told where it listens is none yet", async () => {
  const { host: _, ...nowhere } = member("b", "leader");
  expect(await leadersOf(member("a", "replica"), nowhere)).toEqual([]);
});

test("host and port are taken, and a slash after the address does no harm", async () => {
  const url = await serve(200, JSON.stringify({ members: [member("a", "leader", { port: 5433 })] }));
  expect(await ask(`${url}/`)).toEqual([{ name: "a", host: "10.0.0.1", port: 5433, leader: true }]);
});

test.each<[string, number, string, string]>([
  ["a service that is not Patroni", 200, "<html>", "JSON"],
  ["another shape", 200, '{"members": {}}', "the answer lists no members"],
  ["an error", 503, "{}", "HTTP status 503"],
])("%s is refused, with the address that was asked", async (_, status, body, says) => {
  const url = await serve(status, body);
  await expect(ask(url)).rejects.toThrow(says);
  await expect(ask(url)).rejects.toThrow(`asking Patroni at ${url}/cluster`);
});

test("one that never answers is given up when the signal says so", async () => {
  const url = await serve(200, null);
  await expect(ask(url, AbortSignal.timeout(50))).rejects.toThrow(`asking Patroni at ${url}/cluster`);
});
