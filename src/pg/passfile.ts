// The password file of libpq (~/.pgpass): hostname:port:database:user:password, one entry a line.
import { readFileSync, type Stats, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type ConnInfo, DEFAULT_SOCKET_DIRECTORIES } from "./conninfo.ts";

export interface PassfileQuery {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
}

/** Splits at the colons that no backslash precedes; the fields keep their backslashes. */
function splitFields(line: string): string[] {
  const fields: string[] = [];
  let from = 0;
  for (let at = 0; at < line.length; at++) {
    if (line[at] === "\\") at++;
    else if (line[at] === ":") {
      fields.push(line.slice(from, at));
      from = at + 1;
    }
  }
  fields.push(line.slice(from));
  return fields;
}

const withoutBackslashes = (field: string): string => field.replace(/\\(.)/gs, "$1");

/** The password of the first entry that matches. */
export function findPassword(content: string, query: PassfileQuery): string | undefined {
  // a socket in the default directory goes by the name "localhost" there
  const host = DEFAULT_SOCKET_DIRECTORIES.includes(query.host) ? "localhost" : query.host;
  const wanted = [host, String(query.port), query.database, query.user];
  for (const line of content.split(/\r?\n/)) {
    if (line === "" || line.startsWith("#")) continue;
    const fields = splitFields(line);
    if (fields.length < 5) continue;
    const matches = wanted.every((value, index) => {
      const field = fields[index] ?? "";
      return field === "*" || withoutBackslashes(field) === value;
    });
    if (matches) return withoutBackslashes(fields[4] ?? "");
  }
  return undefined;
}

export interface PassfileAnswer {
  readonly password?: string;
  /** Why the file was not used, in libpq's words. */
  readonly warning?: string;
}

function passfilePath(conn: ConnInfo, homeDirectory = os.homedir()): string {
  return conn.passfile ?? path.join(homeDirectory, ".pgpass");
}

/**
 * Looks the connection up in its password file. A missing file is no mistake. One that others can read is not
 * used, as in libpq: whoever can read it may also have been able to write it.
 */
export function passwordFromFile(
  conn: ConnInfo,
  database: string,
  homeDirectory = os.homedir(),
): PassfileAnswer {
  const file = passfilePath(conn, homeDirectory);
  let stats: Stats;
  let content: string;
  try {
    stats = statSync(file);
    if (!stats.isFile()) return { warning: `password file "${file}" is not a plain file` };
    if (process.platform !== "win32" && (stats.mode & 0o077) !== 0) {
      return {
        warning: `password file "${file}" has group or world access; permissions should be u=rw (0600) or less`,
      };
    }
    content = readFileSync(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === "ENOENT" || code === "ENOTDIR" ? {} : { warning: `password file "${file}": ${code}` };
  }
  const query = { host: conn.host, port: conn.port, user: conn.user };
  const password =
    findPassword(content, { ...query, database }) ??
    // A standby's entry for streaming names the database "replication". The password is the role's, and one for
    // every database, so the entry that serves the WAL receiver serves us when its primary_conninfo does.
    findPassword(content, { ...query, database: "replication" });
  return password === undefined ? {} : { password };
}
