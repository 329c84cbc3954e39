import { chownSync, readFileSync } from "node:fs";

/** The unprivileged account that servers run as. */
export interface Account {
  name: string;
  uid: number;
  gid: number;
}

const CANDIDATES = ["postgres", "nobody"];

/**
 * The account to run servers as, or undefined to run them as ourselves. PostgreSQL refuses to run as root, so
 * root (a container, mostly) hands its servers and their files to an unprivileged account.
 */
export function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const accounts = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"));
  for (const candidate of CANDIDATES) {
    const [name, , uid, gid] = accounts.find((fields) => fields[0] === candidate) ?? [];
    if (name && Number(uid) > 0) return { name, uid: Number(uid), gid: Number(gid) };
  }
  throw new Error(
    `PostgreSQL does not run as root, and /etc/passwd has none of: ${CANDIDATES.join(", ")}. ` +
      "Run this as an ordinary user.",
  );
}

/** The spawn options that make a child run as the account. */
export function spawnAs(account: Account | undefined): { uid?: number; gid?: number } {
  return account ? { uid: account.uid, gid: account.gid } : {};
}

/** Gives a file or folder (not what is in it) to the account. */
export function giveTo(account: Account | undefined, path: string): void {
  if (account) chownSync(path, account.uid, account.gid);
}
