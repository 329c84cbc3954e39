/** What is said where no connection can be had: which key it came from, what to do, and then what the server or the network said. */
import { expect, test } from "vitest";
import { connectAdvice, withAdvice } from "../../src/pg/connect-advice.ts";
import { ConnectError, describeError } from "../../src/pg/errors.ts";

const fromServer = (code: string) => Object.assign(new Error("refused"), { severity: "FATAL", code });
const fromSystem = (code: string) => Object.assign(new Error(`connect ${code}`), { code });

test.each<[string, Error, RegExp]>([
  ["a wrong password", fromServer("28P01"), /^standby\.dsn: the password is refused: correct it there/],
  ["a login that pg_hba.conf does not admit", fromServer("28000"), /pg_hba\.conf admit it/],
  ["a database that there is not", fromServer("3D000"), /name another dbname/],
  ["a used-up connection limit", fromServer("53300"), /CONNECTION LIMIT/],
  ["a server on its way up", fromServer("57P03"), /this passes/],
  ["a port where nothing listens", fromSystem("ECONNREFUSED"), /start the server, or correct host and port/],
  ["a misspelt host", fromSystem("ENOTFOUND"), /correct host/],
  ["a missing socket", fromSystem("ENOENT"), /no such socket/],
  ["a host behind a firewall", new Error("no answer within 2000 ms"), /timeouts\.connect_ms/],
])("%s is told with the key it comes from and what to do", (_, cause, says) => {
  const nested = new ConnectError("connecting to db2:5432", { cause: new AggregateError([cause]) });
  expect(connectAdvice(nested, "standby.dsn")).toMatch(says);
});

test("what nobody foresaw is told with the key alone, and the error's own words stay", async () => {
  const failing = withAdvice("primary_conninfo", () => {
    throw new ConnectError("connecting to db1:5432", { cause: new Error("odd") });
  });
  await expect(failing).rejects.toBeInstanceOf(ConnectError);
  expect(await failing.catch(describeError)).toBe(
    "primary_conninfo of the standby (or set primary.dsn): connecting to db1:5432: odd",
  );
});

test("another error is passed on as it is", async () => {
  const error = new TypeError("x");
  await expect(withAdvice("primary.dsn", () => Promise.reject(error))).rejects.toBe(error);
});
