import { accessSync, chmodSync, constants, existsSync, mkdirSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { serverAccount } from "./account.ts";

/**
 * The folder that keeps what is costly to make: server binaries and test templates. `PG_SLOTSYNC_CACHE` names it;
 * otherwise it is `.cache` in a checkout, or a folder of ours under the system's temporary one when this runs
 * from an installed package or when the checkout is closed to us or to the servers' account.
 */
export function cacheFolder(): string {
  const chosen = process.env.PG_SLOTSYNC_CACHE;
  if (chosen) return makeReadable(path.resolve(chosen));
  const checkout = checkoutFolder();
  if (checkout && usable(checkout)) return makeReadable(path.join(checkout, ".cache"));
  const uid = process.getuid?.() ?? 0;
  const folder = makeReadable(path.join(os.tmpdir(), `pg-slotsync-servers-${uid}`));
  // the temporary folder is shared: another account may have made ours first, with programs of its own in it
  if (statSync(folder).uid !== uid) {
    throw new Error(`${folder} belongs to another account; set PG_SLOTSYNC_CACHE to a folder of yours`);
  }
  return folder;
}

function checkoutFolder(): string | undefined {
  // both src/sandbox and dist/sandbox lie two levels down; the published package has no src
  const root = path.resolve(import.meta.dirname, "..", "..");
  return existsSync(path.join(root, "src", "sandbox")) ? root : undefined;
}

function usable(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    return false;
  }
  return serverAccount() === undefined || everyoneCanTraverse(folder);
}

function everyoneCanTraverse(folder: string): boolean {
  const parent = path.dirname(folder);
  if ((statSync(folder).mode & 0o001) === 0) return false;
  return parent === folder || everyoneCanTraverse(parent);
}

/** Makes a folder that the servers' account can read, whatever the umask. */
export function makeReadable(folder: string): string {
  if (!existsSync(folder)) {
    mkdirSync(folder, { recursive: true });
    chmodSync(folder, 0o755);
  }
  return folder;
}
