// libpq connection strings, in both of their forms, with libpq's rules and its defaults from the environment.
//
// A connection string holds a password, and a badly quoted one spills the password into the words around it.
// So no message here repeats a word that might be part of one, and passwords are kept in a `Secret`, which
// prints as "***" wherever it ends up: in a log line, in JSON, in an assertion's output.
import { existsSync } from "node:fs";
import { isIP } from "node:net";
import os from "node:os";
import { inspect } from "node:util";

class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return "***";
  }

  toJSON(): string {
    return "***";
  }

  [inspect.custom](): string {
    return "***";
  }
}

/** The connection string cannot be used. The message never repeats a password. */
export class ConnInfoError extends Error {
  override readonly name = "ConnInfoError";
}

export const SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] as const;
type SslMode = (typeof SSL_MODES)[number];

const TLS_VERSIONS = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"] as const;
type TlsVersion = (typeof TLS_VERSIONS)[number];

export interface ConnInfo {
  /** A name, an address, or, when it starts with "/", the directory of a unix socket. */
  readonly host: string;
  /** Connect here; `host` then serves the certificate check and the password file only. */
  readonly hostaddr?: string;
  readonly port: number;
  readonly user: string;
  /** A standby's primary_conninfo usually has none. */
  readonly database?: string;
  readonly password?: Secret;
  readonly passfile?: string;
  readonly sslmode: SslMode;
  readonly sslrootcert?: string;
  readonly sslcert?: string;
  readonly sslkey?: string;
  readonly sslpassword?: Secret;
  readonly sslcrl?: string;
  readonly sslcertmode?: "disable" | "allow";
  readonly sslnegotiation?: "postgres" | "direct";
  readonly sslMinVersion?: TlsVersion;
  readonly sslMaxVersion?: TlsVersion;
  readonly connectTimeoutS?: number;
  readonly applicationName?: string;
  readonly keepalives?: boolean;
  readonly keepalivesIdleS?: number;
  readonly keepalivesIntervalS?: number;
  readonly keepalivesCount?: number;
  readonly options?: string;
}

/** What libpq's target_session_attrs may ask of a server. */
export const TARGET_SESSION_ATTRS = [
  "any",
  "read-write",
  "read-only",
  "primary",
  "standby",
  "prefer-standby",
] as const;
export type TargetSessionAttrs = (typeof TARGET_SESSION_ATTRS)[number];

/** All that a connection string names: its hosts in order, and which of them is wanted. */
export interface ConnTargets {
  readonly hosts: readonly [ConnInfo, ...ConnInfo[]];
  /** Null when it does not say. */
  readonly attrs: TargetSessionAttrs | null;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** What libpq asks the operating system; given as an argument so that tests need no real one. */
export interface ConnInfoHost {
  readonly osUser: () => string | undefined;
  readonly socketExists: (path: string) => boolean;
}

const THIS_HOST: ConnInfoHost = {
  osUser: () => {
    try {
      return os.userInfo().username;
    } catch {
      return undefined; // a container's uid need not have a name
    }
  },
  socketExists: existsSync,
};

const USED_KEYS = [
  "host",
  "hostaddr",
  "port",
  "user",
  "dbname",
  "password",
  "passfile",
  "sslmode",
  "sslrootcert",
  "sslcert",
  "sslkey",
  "sslpassword",
  "sslcrl",
  "sslcertmode",
  "sslnegotiation",
  "ssl_min_protocol_version",
  "ssl_max_protocol_version",
  "connect_timeout",
  "application_name",
  "keepalives",
  "keepalives_idle",
  "keepalives_interval",
  "keepalives_count",
  "options",
  "target_session_attrs",
] as const;
type UsedKey = (typeof USED_KEYS)[number];

/** libpq knows these, we do not need them. `pg_basebackup -R` writes many of them into primary_conninfo. */
const IGNORED_KEYS: readonly string[] = [
  "authtype",
  "client_encoding",
  "fallback_application_name",
  "gssdelegation",
  "gsslib",
  "krbsrvname",
  "load_balance_hosts",
  "max_protocol_version",
  "min_protocol_version",
  "oauth_client_id",
  "oauth_client_secret",
  "oauth_issuer",
  "oauth_scope",
  "replication",
  "scram_client_key",
  "scram_server_key",
  "sslcompression",
  "sslkeylogfile",
  "sslsni",
  "tcp_user_timeout",
  "tty",
];

/**
 * libpq knows these too, but to ignore them would make the connection weaker than was asked for, or go
 * elsewhere. The values in the list change nothing and are let through.
 */
const REFUSED_KEYS: Readonly<Record<string, readonly string[]>> = {
  channel_binding: ["disable", "prefer"],
  gssencmode: ["disable", "prefer"],
  require_auth: [],
  requirepeer: [],
  service: [],
  servicefile: [],
  sslcrldir: [],
};

const SECRET_KEYS: readonly string[] = [
  "password",
  "sslpassword",
  "oauth_client_secret",
  "scram_client_key",
  "scram_server_key",
];

const isUsedKey = (key: string): key is UsedKey => (USED_KEYS as readonly string[]).includes(key);
const isKnownKey = (key: string): boolean =>
  isUsedKey(key) || IGNORED_KEYS.includes(key) || Object.hasOwn(REFUSED_KEYS, key);

type Pairs = readonly (readonly [key: string, value: string])[];

const isSpace = (char: string | undefined): boolean => char !== undefined && /[ \t\n\r\v\f]/.test(char);
const isUri = (text: string): boolean => /^postgres(ql)?:\/\//.test(text);

/**
 * Whether the last key that libpq knows is a password's: an unknown word after it may be a piece of a password
 * that has spaces and is not quoted.
 */
function followsSecret(pairs: Pairs): boolean {
  const last = pairs.findLast(([key]) => isKnownKey(key));
  return last !== undefined && SECRET_KEYS.includes(last[0]);
}

/** As far as the text can be read, and what is wrong after that. */
function scanKeyValue(text: string): { pairs: Pairs; problem?: string } {
  const pairs: [string, string][] = [];
  let at = 0;
  const skipSpaces = () => {
    while (isSpace(text[at])) at++;
  };
  const afterSecret = () => followsSecret(pairs);
  const named = (key: string) =>
    afterSecret() && !isKnownKey(key) ? "what follows the password" : `"${key}"`;
  for (;;) {
    skipSpaces();
    if (at >= text.length) return { pairs };
    const keyFrom = at;
    while (at < text.length && text[at] !== "=" && !isSpace(text[at])) at++;
    const key = text.slice(keyFrom, at);
    skipSpaces();
    if (text[at] !== "=") {
      return {
        pairs,
        problem: afterSecret()
          ? 'a "=" is missing after the password: put a password that has spaces between single quotes'
          : pairs.length === 0 && !/\s/.test(text.trim())
            ? 'it is neither "key=value …" nor a URI that starts with postgresql://'
            : `a "=" is missing after "${key}"`,
      };
    }
    if (key === "") return { pairs, problem: 'there is no key before "="' };
    at++;
    skipSpaces();
    let value = "";
    if (text[at] === "'") {
      at++;
      for (;;) {
        if (at >= text.length) return { pairs, problem: `the quoted value of ${named(key)} does not end` };
        if (text[at] === "'") break;
        if (text[at] === "\\") at++;
        value += text[at] ?? "";
        at++;
      }
      at++;
    } else {
      while (at < text.length && !isSpace(text[at])) {
        if (text[at] === "\\") at++;
        value += text[at] ?? "";
        at++;
      }
    }
    pairs.push([key, value]);
  }
}

function percentDecode(text: string, what: string): string {
  // byte by byte, as libpq does: the escapes of one character may come one after another
  const bytes: Buffer[] = [];
  let plainFrom = 0;
  for (let at = text.indexOf("%"); at !== -1; at = text.indexOf("%", at + 3)) {
    const hex = text.slice(at + 1, at + 3);
    if (!/^[0-9a-fA-F]{2}$/.test(hex) || hex === "00") {
      throw new ConnInfoError(`the ${what} has an invalid percent-encoding (write a "%" itself as %25)`);
    }
    bytes.push(Buffer.from(text.slice(plainFrom, at)), Buffer.from(hex, "hex"));
    plainFrom = at + 3;
  }
  bytes.push(Buffer.from(text.slice(plainFrom)));
  return Buffer.concat(bytes).toString("utf8");
}

const SEVERAL_HOSTS = "it names several hosts: name the one";

/** `strayAt`: there is an "@" after the credentials, so these may have ended too early. */
function scanUri(text: string): { pairs: Pairs; strayAt: boolean } {
  const pairs: [string, string][] = [];
  let rest = text.slice(text.indexOf("://") + 3);

  const credentials = /^([^@/]*)@/.exec(rest);
  if (credentials) {
    rest = rest.slice(credentials[0].length);
    const [, pair = ""] = credentials;
    const colon = pair.indexOf(":");
    pairs.push(["user", percentDecode(colon === -1 ? pair : pair.slice(0, colon), "user name")]);
    if (colon !== -1) pairs.push(["password", percentDecode(pair.slice(colon + 1), "password")]);
  }

  const queryAt = rest.indexOf("?");
  const beforeQuery = queryAt === -1 ? rest : rest.slice(0, queryAt);
  const slashAt = beforeQuery.indexOf("/");
  const authority = slashAt === -1 ? beforeQuery : beforeQuery.slice(0, slashAt);
  const database = slashAt === -1 ? "" : beforeQuery.slice(slashAt + 1);
  if ((authority + database).includes("@")) {
    // what stands before it is then most likely a piece of a password: do not go on with it as a host or database
    throw new ConnInfoError(
      'there is a stray "@": percent-encode "/", ":" and "@" in the user name and password',
    );
  }
  const places = authority.split(",").map((place) => {
    const hostAndPort = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(.*))?$/s.exec(place);
    if (!hostAndPort)
      throw new ConnInfoError('the host is not understood: an IPv6 address stands in "[" and "]"');
    return { host: hostAndPort[1] ?? hostAndPort[2] ?? "", port: hostAndPort[3] ?? "" };
  });
  pairs.push(["host", percentDecode(places.map(({ host }) => host).join(","), "host")]);
  pairs.push(["port", percentDecode(places.map(({ port }) => port).join(","), "port")]);
  pairs.push(["dbname", percentDecode(database, "database name")]);

  if (queryAt !== -1 && queryAt + 1 < rest.length) {
    for (const parameter of rest.slice(queryAt + 1).split("&")) {
      const parts = parameter.split("=");
      if (parts.length !== 2) {
        throw new ConnInfoError('each parameter after "?" is written key=value, with "&" between them');
      }
      const key = percentDecode(parts[0] ?? "", "name of a parameter");
      const value = percentDecode(parts[1] ?? "", `value of "${isKnownKey(key) ? key : "a parameter"}"`);
      // libpq's help for URIs that were written for JDBC
      if (key === "ssl" && value === "true") pairs.push(["sslmode", "require"]);
      else pairs.push([key, value]);
    }
  }
  return { pairs, strayAt: rest.includes("@") };
}

function integer(key: string, text: string, min: number, max: number): number {
  const trimmed = text.trim();
  const value = /^[+-]?\d{1,10}$/.test(trimmed) ? Number(trimmed) : Number.NaN;
  if (!(value >= min && value <= max)) {
    // the text itself is not repeated: in a URI whose password is not encoded it is a piece of the password
    throw new ConnInfoError(`${key} must be a whole number from ${min} to ${max}`);
  }
  return value;
}

function oneOf<T extends string>(key: string, text: string, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) throw new ConnInfoError(`${key} must be one of ${choices.join(", ")}`);
  return found;
}

const ENV_OF: Partial<Record<UsedKey, string>> = {
  host: "PGHOST",
  hostaddr: "PGHOSTADDR",
  port: "PGPORT",
  user: "PGUSER",
  dbname: "PGDATABASE",
  password: "PGPASSWORD",
  passfile: "PGPASSFILE",
  sslmode: "PGSSLMODE",
  sslrootcert: "PGSSLROOTCERT",
  sslcert: "PGSSLCERT",
  sslkey: "PGSSLKEY",
  sslcrl: "PGSSLCRL",
  connect_timeout: "PGCONNECT_TIMEOUT",
  options: "PGOPTIONS",
  target_session_attrs: "PGTARGETSESSIONATTRS",
};

/** Debian, Red Hat and the container images on the one hand, PostgreSQL's own default on the other. */
export const DEFAULT_SOCKET_DIRECTORIES: readonly string[] = ["/var/run/postgresql", "/tmp"];

/**
 * Without a host libpq takes the socket directory it was compiled with. We cannot know it, so it is the
 * directory that has the socket, and loopback TCP when none has.
 */
function defaultHost(port: number, host: ConnInfoHost): string {
  return (
    DEFAULT_SOCKET_DIRECTORIES.find((directory) => host.socketExists(`${directory}/.s.PGSQL.${port}`)) ??
    "localhost"
  );
}

interface Place {
  host: string;
  hostaddr: string | undefined;
  port: number;
}

/**
 * Host names, addresses and ports, paired as libpq does: as many places as there are addresses, or without any as there are names; one
 * port is everybody's, and an empty piece takes the default.
 */
function pairPlaces(
  hosts: string | undefined,
  hostaddrs: string | undefined,
  ports: string | undefined,
  thisHost: ConnInfoHost,
): Place[] {
  const names = hosts?.split(",");
  const addresses = hostaddrs?.split(",");
  const numbers = ports?.split(",") ?? [""];
  const places = (addresses ?? names ?? [""]).length;
  if (names && names.length !== places)
    throw new ConnInfoError(
      `${names.length} host names cannot be matched to ${places} hostaddr values: give as many, empty ones where there is none`,
    );
  if (numbers.length !== 1 && numbers.length !== places)
    throw new ConnInfoError(
      `${numbers.length} port numbers cannot be matched to ${places} hosts: give one for all, or one for each`,
    );
  const place = (index: number): Place => {
    const portText = (numbers.length === 1 ? numbers[0] : numbers[index]) || undefined;
    const port = portText === undefined ? 5432 : integer("port", portText, 1, 65535);
    const hostaddr = addresses?.[index] || undefined;
    if (hostaddr !== undefined && isIP(hostaddr) === 0)
      throw new ConnInfoError("hostaddr must be an IP address; a name belongs into host");
    const host = names?.[index] || (hostaddr ?? defaultHost(port, thisHost));
    if (host.startsWith("@")) throw new ConnInfoError("sockets in the abstract namespace are not supported");
    return { host, hostaddr, port };
  };
  return Array.from({ length: places }, (_, index) => place(index));
}

/**
 * Reads a connection string that names one server. Throws ConnInfoError and nothing else; see {@link parseConnTargets}.
 */
export function parseConnInfo(
  text: string,
  env: Environment = {},
  thisHost: ConnInfoHost = THIS_HOST,
): ConnInfo {
  const { hosts } = parseConnTargets(text, env, thisHost);
  if (hosts.length > 1) throw new ConnInfoError(SEVERAL_HOSTS);
  return hosts[0];
}

/**
 * Reads `key=value …` or `postgresql://…`, as libpq does, with all its hosts; what is missing comes from `env`. Throws
 * ConnInfoError and nothing else. An empty value counts as not given.
 */
export function parseConnTargets(
  text: string,
  env: Environment = {},
  thisHost: ConnInfoHost = THIS_HOST,
): ConnTargets {
  if (text.includes("\0")) throw new ConnInfoError("it has a zero byte");
  let pairs: Pairs;
  let strayAt = false;
  if (isUri(text)) ({ pairs, strayAt } = scanUri(text));
  else {
    const scanned = scanKeyValue(text);
    if (scanned.problem !== undefined) throw new ConnInfoError(scanned.problem);
    pairs = scanned.pairs;
  }

  const given = new Map<UsedKey, string>();
  for (const [index, [key, value]] of pairs.entries()) {
    if (!isKnownKey(key)) {
      throw new ConnInfoError(
        followsSecret(pairs.slice(0, index))
          ? "what follows the password is not a key that libpq knows: put a password that has spaces between single quotes"
          : strayAt
            ? 'libpq does not know a parameter; is it a piece of a password? There percent-encode "/", ":", "?" and "@"'
            : `libpq knows no key "${key}"`,
      );
    }
    const harmless = Object.hasOwn(REFUSED_KEYS, key) ? REFUSED_KEYS[key] : undefined;
    if (harmless && value !== "" && !harmless.includes(value)) {
      throw new ConnInfoError(
        harmless.length > 0
          ? `${key} is supported with ${harmless.join(" or ")} only`
          : `${key} is not supported; take it out`,
      );
    }
    if (isUsedKey(key)) given.set(key, value);
  }

  const get = (key: UsedKey): string | undefined => {
    const value = given.get(key);
    if (value !== undefined && value !== "") return value;
    const variable = ENV_OF[key];
    const fallback = variable === undefined ? undefined : env[variable];
    return fallback === "" || fallback?.includes("\0") ? undefined : fallback;
  };
  const count = (key: UsedKey): number | undefined => {
    const value = get(key);
    return value === undefined ? undefined : integer(key, value, -2147483648, 2147483647);
  };
  const positive = (key: UsedKey): number | undefined => {
    const value = count(key);
    return value !== undefined && value > 0 ? value : undefined; // 0 and less: the system's own, in libpq
  };

  const places = pairPlaces(get("host"), get("hostaddr"), get("port"), thisHost);
  const user = get("user") ?? thisHost.osUser();
  if (user === undefined || user === "") {
    throw new ConnInfoError("there is no user: add user=…, or set PGUSER");
  }

  const sslrootcert = get("sslrootcert");
  const sslmodeText = get("sslmode");
  const sslmode: SslMode =
    sslmodeText !== undefined
      ? oneOf("sslmode", sslmodeText, SSL_MODES)
      : sslrootcert === "system"
        ? "verify-full"
        : "prefer";
  if (sslrootcert === "system" && sslmode !== "verify-full") {
    // as libpq: anybody can have a certificate from a public authority, so without the name it proves nothing
    throw new ConnInfoError(`sslmode=${sslmode} is too weak for sslrootcert=system: use verify-full`);
  }
  const sslnegotiationText = get("sslnegotiation");
  const sslnegotiation =
    sslnegotiationText && oneOf("sslnegotiation", sslnegotiationText, ["postgres", "direct"] as const);
  if (sslnegotiation === "direct" && !["require", "verify-ca", "verify-full"].includes(sslmode)) {
    throw new ConnInfoError(
      `sslmode=${sslmode} is too weak for sslnegotiation=direct: use require or verify-full`,
    );
  }
  const certmode = get("sslcertmode");
  const minVersion = get("ssl_min_protocol_version");
  const maxVersion = get("ssl_max_protocol_version");
  const password = get("password");
  const sslpassword = get("sslpassword");
  const keepalives = count("keepalives");

  const attrs = get("target_session_attrs");

  const [first, ...further] = places.map((place) =>
    withoutUndefined({
      ...place,
      user,
      database: get("dbname"),
      password: password === undefined ? undefined : new Secret(password),
      passfile: get("passfile"),
      sslmode,
      sslrootcert,
      sslcert: get("sslcert"),
      sslkey: get("sslkey"),
      sslpassword: sslpassword === undefined ? undefined : new Secret(sslpassword),
      sslcrl: get("sslcrl"),
      sslcertmode: certmode && oneOf("sslcertmode", certmode, ["disable", "allow"] as const),
      sslnegotiation,
      sslMinVersion: minVersion && oneOf("ssl_min_protocol_version", minVersion, TLS_VERSIONS),
      sslMaxVersion: maxVersion && oneOf("ssl_max_protocol_version", maxVersion, TLS_VERSIONS),
      connectTimeoutS: positive("connect_timeout"),
      applicationName: get("application_name"),
      keepalives: keepalives === undefined ? undefined : keepalives !== 0,
      keepalivesIdleS: positive("keepalives_idle"),
      keepalivesIntervalS: positive("keepalives_interval"),
      keepalivesCount: positive("keepalives_count"),
      options: get("options"),
    }),
  );
  if (first === undefined) throw new ConnInfoError("there is no host");
  return {
    hosts: [first, ...further],
    attrs: attrs === undefined ? null : oneOf("target_session_attrs", attrs, TARGET_SESSION_ATTRS),
  };
}

type WithoutUndefined<T> = { [K in keyof T as undefined extends T[K] ? never : K]: T[K] } & {
  [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined | "">;
};

function withoutUndefined<T extends object>(value: T): WithoutUndefined<T> {
  return Object.fromEntries(
    Object.entries(value).filter(([, one]) => one !== undefined),
  ) as WithoutUndefined<T>;
}

/** Quotes a value for the `key=value` form. */
export function quoteConnInfoValue(value: string): string {
  return /^[A-Za-z0-9_./:@%+-]+$/.test(value) ? value : `'${value.replace(/[\\']/g, "\\$&")}'`;
}

/** The `key=value` form of some keys, libpq's names; empty and missing ones are left out. */
export function formatConnInfo(values: Readonly<Record<string, string | number | undefined>>): string {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined && value !== "")
    .map(([key, value]) => `${key}=${quoteConnInfoValue(String(value))}`)
    .join(" ");
}

/** `host:port`, for messages. */
export function describePlace({ host, port }: Pick<ConnInfo, "host" | "port">): string {
  return `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
}

/** `host:port/database as user`, for messages. */
export function describeConnInfo(conn: ConnInfo, database = conn.database): string {
  return `${describePlace(conn)}${database === undefined ? "" : `/${database}`} as ${conn.user}`;
}

const showValue = (key: string, value: string): string =>
  isKnownKey(key) && !SECRET_KEYS.includes(key) ? value : "***";

/**
 * The connection string without anything that is or may be a password, for logs and messages. It works on
 * malformed text too, and then shows less rather than more.
 */
export function redactConnInfo(text: string): string {
  if (isUri(text)) {
    const scheme = text.slice(0, text.indexOf("://") + 3);
    let body = text.slice(scheme.length);
    let user = "";
    const credentials = /^([^@/]*)@/.exec(body);
    if (credentials) {
      const [whole, pair = ""] = credentials;
      const colon = pair.indexOf(":");
      user = colon === -1 ? whole : `${pair.slice(0, colon)}:***@`;
      body = body.slice(whole.length);
    }
    // one more "@": where the password ends cannot be told
    if (body.includes("@")) return `${scheme}${user || (/^[^:/?@]*/.exec(body)?.[0] ?? "")}…`;
    const queryAt = body.indexOf("?");
    const query = queryAt === -1 ? "" : body.slice(queryAt + 1);
    const beforeQuery = queryAt === -1 ? body : body.slice(0, queryAt);
    const hostAndPort = /^\[[^\]]*\]/.test(beforeQuery)
      ? /^(\[[^\]]*\]):([^/]*).*$/s
      : /^([^:/]*):([^/]*).*$/s;
    const port = hostAndPort.exec(beforeQuery)?.[2] ?? "";
    // a "port" that is none: the credentials of a URI whose "@" got lost
    const place = /^\d*$/.test(port) ? beforeQuery : beforeQuery.replace(hostAndPort, "$1:***");
    const shown = query.split("&").map((parameter) => {
      const equals = parameter.indexOf("=");
      if (equals === -1) return parameter === "" ? "" : "***";
      const key = parameter.slice(0, equals);
      return isKnownKey(key) ? `${key}=${showValue(key, parameter.slice(equals + 1))}` : "***";
    });
    return `${scheme}${user}${place}${queryAt === -1 ? "" : `?${shown.join("&")}`}`;
  }
  const { pairs, problem } = scanKeyValue(text);
  const shown: string[] = [];
  let cut = problem !== undefined;
  for (const [index, [key, value]] of pairs.entries()) {
    if (!isKnownKey(key) && followsSecret(pairs.slice(0, index))) {
      cut = true; // the rest of a password with spaces and "="
      break;
    }
    const safe = showValue(key, value);
    shown.push(`${key}=${safe === "***" ? safe : quoteConnInfoValue(safe)}`);
  }
  if (cut) shown.push("…");
  return shown.join(" ");
}
