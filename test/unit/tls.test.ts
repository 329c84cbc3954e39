import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConnInfoError, parseConnInfo, SSL_MODES } from "../../src/pg/conninfo.ts";
import { type TlsAttempt, type TlsFiles, tlsAttempts } from "../../src/pg/tls.ts";

const HOME = "/home/joe";
const ROOT = `${HOME}/.postgresql/root.crt`;
const CERT = `${HOME}/.postgresql/postgresql.crt`;
const KEY = `${HOME}/.postgresql/postgresql.key`;

function files(content: Record<string, string>, mode = 0o100600, ownedByRoot = false): TlsFiles {
  return {
    homeDirectory: HOME,
    read: (file) => content[file],
    access: () => ({ mode, ownedByRoot }),
    systemRoots: () => "SYSTEM",
  };
}

const attempts = (text: string, given: TlsFiles = files({})) =>
  tlsAttempts(parseConnInfo(text, {}, { osUser: () => "joe", socketExists: () => false }), given);
const short = (attempt: TlsAttempt) => (attempt.kind === "plain" ? "plain" : `tls/${attempt.verification}`);

describe("sslmode decides what is tried and what must be proven", () => {
  it.each<[mode: string, withoutRoot: string[] | "refused", withRoot: string[]]>([
    ["disable", ["plain"], ["plain"]],
    ["allow", ["plain", "tls/none"], ["plain", "tls/ca"]],
    ["prefer", ["tls/none", "plain"], ["tls/ca", "plain"]],
    ["require", ["tls/none"], ["tls/ca"]],
    ["verify-ca", "refused", ["tls/ca"]],
    ["verify-full", "refused", ["tls/full"]],
  ])("%s", (mode, withoutRoot, withRoot) => {
    const text = `host=db1 sslmode=${mode}`;
    if (withoutRoot === "refused") expect(() => attempts(text)).toThrow(`root certificate file "${ROOT}"`);
    else expect(attempts(text).map(short)).toEqual(withoutRoot);
    expect(attempts(text, files({ [ROOT]: "CA" })).map(short)).toEqual(withRoot);
    expect(attempts(`${text} sslrootcert=/ca`, files({ "/ca": "CA" })).map(short)).toEqual(withRoot);
  });

  it("verify-ca checks the chain but not the name, verify-full both", () => {
    const [ca] = attempts("host=db1 sslmode=verify-ca", files({ [ROOT]: "CA" }));
    const [full] = attempts("host=db1 sslmode=verify-full", files({ [ROOT]: "CA" }));
    if (ca?.kind !== "tls" || full?.kind !== "tls") throw new Error("expected TLS");
    expect(ca.options).toMatchObject({ rejectUnauthorized: true, ca: "CA" });
    expect(ca.options.checkServerIdentity?.("x", {} as never)).toBeUndefined();
    expect(full.options).toMatchObject({ rejectUnauthorized: true, ca: "CA" });
    expect(full.options.checkServerIdentity).toBeUndefined(); // Node's own
  });

  it("sslrootcert=system means the system's roots and the full check", () => {
    const [only, ...more] = attempts("host=db1 sslrootcert=system");
    expect(more).toEqual([]);
    expect(only).toMatchObject({ verification: "full", options: { ca: "SYSTEM", rejectUnauthorized: true } });
  });

  it.each(SSL_MODES.filter((mode) => !mode.startsWith("verify")))(
    "a unix socket is always plain (%s)",
    (mode) => {
      expect(attempts(`host=/run/pg sslmode=${mode}`).map(short)).toEqual(["plain"]);
    },
  );

  it("whenever more than a wish was expressed there is no plain attempt", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...SSL_MODES),
        fc.subarray([ROOT, CERT, KEY, "/ca", `${HOME}/.postgresql/root.crl`]),
        fc.constantFrom("", " sslrootcert=/ca", " sslcertmode=disable"),
        (mode, present, more) => {
          const given = files(Object.fromEntries(present.map((file) => [file, "PEM"])));
          let tried: readonly TlsAttempt[];
          try {
            tried = attempts(`host=db1 sslmode=${mode}${more}`, given);
          } catch (error) {
            expect(error).toBeInstanceOf(ConnInfoError);
            expect(["require", "verify-ca", "verify-full"]).toContain(mode);
            return;
          }
          expect(tried.length).toBeGreaterThan(0);
          const plain = tried.some((attempt) => attempt.kind === "plain");
          expect(plain).toBe(["disable", "allow", "prefer"].includes(mode));
          for (const attempt of tried) {
            if (attempt.kind === "tls" && mode.startsWith("verify")) {
              expect(attempt.options.rejectUnauthorized).toBe(true);
            }
          }
        },
      ),
    );
  });
});

describe("client certificates", () => {
  const optionsOf = (text: string, given: TlsFiles) => {
    const [attempt] = attempts(text, given);
    return attempt?.kind === "tls" ? attempt.options : undefined;
  };

  it("the default files are used when they exist", () => {
    expect(optionsOf("host=db1 sslmode=require", files({ [CERT]: "C", [KEY]: "K" }))).toMatchObject({
      cert: "C",
      key: "K",
    });
    expect(optionsOf("host=db1 sslmode=require", files({}))).not.toHaveProperty("cert");
  });

  it("named files and the key's password", () => {
    const options = optionsOf(
      "host=db1 sslmode=require sslcert=/c sslkey=/k sslpassword=s",
      files({ "/c": "C", "/k": "K" }),
    );
    expect(options).toMatchObject({ cert: "C", key: "K", passphrase: "s" });
  });

  it("sslcertmode=disable sends none", () => {
    const options = optionsOf(
      "host=db1 sslmode=require sslcertmode=disable",
      files({ [CERT]: "C", [KEY]: "K" }),
    );
    expect(options).not.toHaveProperty("cert");
  });

  it("a certificate without its key is refused", () => {
    expect(() => attempts("host=db1 sslmode=require", files({ [CERT]: "C" }))).toThrow("no private key file");
  });

  it.runIf(process.platform !== "win32").each<[number, boolean, boolean]>([
    [0o100600, false, true],
    [0o100640, false, false],
    [0o100640, true, true],
    [0o100644, true, false],
  ])("key mode %o, owned by root %s: accepted %s", (mode, root, accepted) => {
    const given = files({ [CERT]: "C", [KEY]: "K" }, mode, root);
    if (accepted) expect(optionsOf("host=db1 sslmode=require", given)).toHaveProperty("key");
    else expect(() => attempts("host=db1 sslmode=require", given)).toThrow("group or world access");
    // where encryption was only a wish, an unusable key leaves the plain connection
    if (!accepted) expect(attempts("host=db1 sslmode=prefer", given).map(short)).toEqual(["plain"]);
  });

  it("protocol versions, revocation list and direct negotiation are passed on", () => {
    const [attempt] = attempts(
      "host=db1 sslmode=verify-ca sslrootcert=/ca sslcrl=/crl ssl_min_protocol_version=TLSv1.3 " +
        "ssl_max_protocol_version=TLSv1.3 sslnegotiation=direct",
      files({ "/ca": "CA", "/crl": "CRL" }),
    );
    expect(attempt).toMatchObject({
      direct: true,
      options: { crl: "CRL", minVersion: "TLSv1.3", maxVersion: "TLSv1.3" },
    });
  });
});
