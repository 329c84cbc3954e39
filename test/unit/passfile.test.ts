import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { findPassword, passwordFromFile } from "../../src/pg/passfile.ts";

const QUERY = { host: "db1", port: 5432, database: "app", user: "joe" };

describe("the password file is read as libpq reads it", () => {
  it.each<[string, string, string | undefined]>([
    ["exact", "db1:5432:app:joe:pw", "pw"],
    ["wildcards", "*:*:*:*:pw", "pw"],
    ["the first match wins", "db1:5432:app:joe:one\ndb1:5432:app:joe:two", "one"],
    ["another host", "db2:5432:app:joe:pw", undefined],
    ["another port", "db1:5433:app:joe:pw", undefined],
    ["another database", "db1:5432:other:joe:pw", undefined],
    ["another user", "db1:5432:app:ann:pw", undefined],
    ["comments and empty lines", "# *:*:*:*:no\n\n*:*:*:*:pw", "pw"],
    ["CRLF", "db1:5432:app:joe:pw\r\n", "pw"],
    ["escapes in the password", "*:*:*:*:a\\:b\\\\c", "a:b\\c"],
    ["the password ends at a colon", "*:*:*:*:a:b", "a"],
    ["escapes in a field", "d\\b1:5432:app:joe:pw", "pw"],
    ["an escaped star is a star", "\\*:5432:app:joe:pw", undefined],
    ["too few fields", "db1:5432:app:joe", undefined],
    ["an empty password", "*:*:*:*:", ""],
    ["a trailing backslash", "*:*:*:*:a\\", "a\\"],
  ])("%s", (_, content, expected) => {
    expect(findPassword(content, QUERY)).toBe(expected);
  });

  it.each(["/tmp", "/var/run/postgresql"])("the socket in %s is called localhost", (host) => {
    expect(findPassword("localhost:5432:app:joe:pw", { ...QUERY, host })).toBe("pw");
  });

  it("a socket elsewhere is called by its directory", () => {
    expect(findPassword("/run/pg:5432:app:joe:pw", { ...QUERY, host: "/run/pg" })).toBe("pw");
  });

  it("every field can be written with escapes", () => {
    const field = fc.string({ minLength: 1 }).filter((text) => !/[\r\n\0]/.test(text));
    const escaped = (text: string) => text.replace(/[\\:*]/g, "\\$&");
    fc.assert(
      fc.property(field, field, field, field, (host, database, user, password) => {
        const line = [host, "5432", database, user, password].map((text) => escaped(text)).join(":");
        fc.pre(!line.startsWith("#") && host !== "/tmp");
        expect(findPassword(line, { host, port: 5432, database, user })).toBe(password);
      }),
    );
  });
});

describe("the file itself", () => {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(path.join(os.tmpdir(), "slotsync-passfile-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const conn = (passfile: string) => parseConnInfo(`host=db1 user=joe passfile='${passfile}'`);
  const write = (content: string, mode = 0o600) => {
    const file = path.join(directory, "pass");
    writeFileSync(file, content);
    chmodSync(file, mode);
    return file;
  };

  it("answers for a connection", () => {
    expect(passwordFromFile(conn(write("db1:5432:app:joe:pw")), "app")).toEqual({ password: "pw" });
    expect(passwordFromFile(conn(write("db1:5432:app:joe:pw")), "other")).toEqual({});
  });

  it("~/.pgpass is the default", () => {
    writeFileSync(path.join(directory, ".pgpass"), "*:*:*:*:pw", { mode: 0o600 });
    expect(passwordFromFile(parseConnInfo("host=db1 user=joe"), "app", directory)).toEqual({
      password: "pw",
    });
  });

  it("the standby's entry for streaming serves every database, after one for the database itself", () => {
    expect(passwordFromFile(conn(write("db1:*:replication:joe:r")), "app")).toEqual({ password: "r" });
    expect(passwordFromFile(conn(write("db1:*:replication:joe:r\ndb1:*:app:joe:a")), "app")).toEqual({
      password: "a",
    });
  });

  it.runIf(process.platform !== "win32")("one that others can read is not used, with libpq's warning", () => {
    const file = write("*:*:*:*:pw", 0o640);
    const answer = passwordFromFile(conn(file), "app");
    expect(answer.password).toBeUndefined();
    expect(answer.warning).toContain("has group or world access");
  });

  it("a missing one is no mistake, a folder is", () => {
    expect(passwordFromFile(conn(path.join(directory, "none")), "app")).toEqual({});
    mkdirSync(path.join(directory, "folder"));
    expect(passwordFromFile(conn(path.join(directory, "folder")), "app").warning).toContain(
      "not a plain file",
    );
  });
});
