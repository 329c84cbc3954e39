/** A server that is none must cost no memory before anybody has logged in. */
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { expect, test } from "vitest";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { describeError } from "../../src/pg/errors.ts";
import { openSession } from "../../src/pg/session.ts";

test("a message of a gigabyte before the login is not waited for: the connection is given up (I13)", async () => {
  let sent = 0;
  const server = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => {
      // an error message that says it is a gigabyte long
      socket.write(Buffer.from([0x45, 0x40, 0, 0, 0]));
      const piece = Buffer.alloc(1024 * 1024, 0x41);
      const more = () => {
        while (sent < 1024 && !socket.destroyed) {
          sent += 1;
          if (!socket.write(piece)) return void socket.once("drain", more);
        }
      };
      more();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const options = {
    applicationName: "greeting",
    statementTimeoutMs: 50_000,
    queryTimeoutMs: 55_000,
    connectTimeoutMs: 50_000,
  };
  const conn = parseConnInfo(`host=127.0.0.1 port=${port} user=x dbname=x sslmode=disable`, {});
  const error: unknown = await openSession(conn, options).catch((why: unknown) => why);
  expect(describeError(error)).toMatch(/sent more than \d+ bytes before the login was over/);
  expect(sent).toBeLessThan(1024);
  server.close();
});
