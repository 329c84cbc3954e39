// What sslmode means, as in libpq: which connections to try, in which order, and what each must prove.
import { readFileSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type tls from "node:tls";
import { type ConnInfo, ConnInfoError } from "./conninfo.ts";

/** What is checked: nothing, that the chain ends at a trusted root, or also that the name is the host's. */
type TlsVerification = "none" | "ca" | "full";

export type TlsAttempt =
  | { readonly kind: "plain" }
  | {
      readonly kind: "tls";
      readonly verification: TlsVerification;
      /** Start with the handshake instead of asking the server first (17+). */
      readonly direct: boolean;
      readonly options: tls.ConnectionOptions;
    };

/** The files libpq looks for; given as an argument so that tests need no real ones. */
export interface TlsFiles {
  readonly homeDirectory: string;
  /** undefined: there is no such file */
  readonly read: (file: string) => string | undefined;
  readonly access: (file: string) => { readonly mode: number; readonly ownedByRoot: boolean };
  /** The roots the system trusts; undefined: those that Node brings along. */
  readonly systemRoots: () => string | string[] | undefined;
}

const SYSTEM_BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
];

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new ConnInfoError(`could not read "${file}": ${code}`);
  }
}

const REAL_FILES: TlsFiles = {
  homeDirectory: os.homedir(),
  read: readIfThere,
  access: (file) => {
    const stats = statSync(file);
    return { mode: stats.mode, ownedByRoot: stats.uid === 0 };
  },
  systemRoots: () => {
    for (const file of [process.env.SSL_CERT_FILE, ...SYSTEM_BUNDLES]) {
      const bundle = file ? readIfThere(file) : undefined;
      if (bundle !== undefined) return bundle;
    }
    return undefined;
  },
};

function clientCertificate(conn: ConnInfo, files: TlsFiles): tls.SecureContextOptions {
  if (conn.sslcertmode === "disable") return {};
  const certFile = conn.sslcert ?? path.join(files.homeDirectory, ".postgresql", "postgresql.crt");
  const cert = files.read(certFile);
  if (cert === undefined) return {}; // as libpq: the server will say if it wants one
  const keyFile = conn.sslkey ?? path.join(files.homeDirectory, ".postgresql", "postgresql.key");
  const key = files.read(keyFile);
  if (key === undefined)
    throw new ConnInfoError(`there is a certificate, but no private key file "${keyFile}"`);
  const { mode, ownedByRoot } = files.access(keyFile);
  if (process.platform !== "win32" && (mode & (ownedByRoot ? 0o037 : 0o077)) !== 0) {
    throw new ConnInfoError(
      `private key file "${keyFile}" has group or world access; it must have permissions u=rw (0600) or less, ` +
        "or u=rw,g=r (0640) or less if owned by root",
    );
  }
  return { cert, key, ...(conn.sslpassword && { passphrase: conn.sslpassword.reveal() }) };
}

function tlsAttempt(conn: ConnInfo, files: TlsFiles): TlsAttempt {
  let verification: TlsVerification = "none";
  let ca: string | string[] | undefined;
  if (conn.sslrootcert === "system") {
    ca = files.systemRoots();
    verification = "full";
  } else {
    const rootFile = conn.sslrootcert ?? path.join(files.homeDirectory, ".postgresql", "root.crt");
    ca = files.read(rootFile);
    // libpq: where there is a root certificate, the chain is checked in every mode ("require" is then "verify-ca")
    if (ca !== undefined) verification = conn.sslmode === "verify-full" ? "full" : "ca";
    else if (conn.sslmode === "verify-ca" || conn.sslmode === "verify-full") {
      throw new ConnInfoError(
        `root certificate file "${rootFile}" does not exist: provide it, use the system's trusted roots with ` +
          "sslrootcert=system, or change sslmode to disable server certificate verification",
      );
    }
  }
  const crl =
    verification === "none"
      ? undefined
      : files.read(conn.sslcrl ?? path.join(files.homeDirectory, ".postgresql", "root.crl"));
  return {
    kind: "tls",
    verification,
    direct: conn.sslnegotiation === "direct",
    options: {
      rejectUnauthorized: verification !== "none",
      minVersion: conn.sslMinVersion ?? "TLSv1.2",
      ...(conn.sslMaxVersion && { maxVersion: conn.sslMaxVersion }),
      ...(verification === "ca" && { checkServerIdentity: () => undefined }),
      ...(ca !== undefined && { ca }),
      ...(crl !== undefined && { crl }),
      ...clientCertificate(conn, files),
    },
  };
}

/** The connections to try in turn; never empty. Over a unix socket sslmode is without meaning, as in libpq. */
export function tlsAttempts(conn: ConnInfo, files: TlsFiles = REAL_FILES): readonly TlsAttempt[] {
  const plain: TlsAttempt = { kind: "plain" };
  if (conn.host.startsWith("/") && conn.hostaddr === undefined) return [plain];
  switch (conn.sslmode) {
    case "disable":
      return [plain];
    case "allow":
    case "prefer": {
      let secure: TlsAttempt;
      try {
        secure = tlsAttempt(conn, files);
      } catch (error) {
        if (error instanceof ConnInfoError) return [plain]; // as libpq: encryption was only a wish
        throw error;
      }
      return conn.sslmode === "allow" ? [plain, secure] : [secure, plain];
    }
    case "require":
    case "verify-ca":
    case "verify-full":
      return [tlsAttempt(conn, files)];
  }
}
