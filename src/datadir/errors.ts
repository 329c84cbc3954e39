/** What can be wrong with the standby's data directory, each with the operator's way out. */

/** Why a directory is not used. */
export type DataDirectoryReason =
  | "missing"
  | "not_a_data_directory"
  | "another_cluster"
  | "another_major"
  | "another_server"
  | "not_writable"
  | "unreadable";

/** The directory of standby.data_directory cannot be used, or a file in it could not be read or written. */
export class DataDirectoryError extends Error {
  override readonly name = "DataDirectoryError";
  readonly reason: DataDirectoryReason;
  readonly path: string;

  /** @param found what is there, and what was expected instead, as the rest of a sentence that begins with the path */
  constructor(reason: DataDirectoryReason, path: string, found: string, options?: ErrorOptions) {
    super(`${path} ${found}: ${fixFor(reason)}`, options);
    this.reason = reason;
    this.path = path;
  }
}

/** A WAL segment is not the one it is taken for, or not whole. */
export class WalSegmentError extends Error {
  override readonly name = "WalSegmentError";
  readonly segment: string;
  readonly problem: string;

  constructor(segment: string, problem: string) {
    super(`WAL segment ${segment} is not usable: ${problem}`);
    this.segment = segment;
    this.problem = problem;
  }
}

/** The system's code of a failed call (`ENOSPC`), or the error's own text when it has none. */
export function errnoOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

/** A failed read, with its reason told from the system's code. */
export function readError(path: string, cause: unknown): DataDirectoryError {
  const code = errnoOf(cause);
  const missing = code === "ENOENT" || code === "ENOTDIR";
  return new DataDirectoryError(
    missing ? "missing" : "unreadable",
    path,
    missing ? "does not exist" : `cannot be read (${code})`,
    { cause },
  );
}

/** A failed write; what was there before is intact. */
export function writeError(doing: string, path: string, cause: unknown): DataDirectoryError {
  return new DataDirectoryError(
    "not_writable",
    path,
    `was left as it was, ${doing} failed (${errnoOf(cause)})`,
    {
      cause,
    },
  );
}

function fixFor(reason: DataDirectoryReason): string {
  switch (reason) {
    case "missing":
      return "correct standby.data_directory, or mount the standby's data directory there";
    case "not_a_data_directory":
      return "set standby.data_directory to what the standby's `show data_directory` says, as seen from here";
    case "another_cluster":
    case "another_server":
      return "set standby.data_directory to the directory of the very server that standby.dsn reaches";
    case "another_major":
      return "set standby.data_directory to the directory of the running version, not of one before an upgrade";
    case "not_writable":
      return (
        "run slotsync as the account that owns standby.data_directory, on a file system that is mounted read-write " +
        "and has room, or leave standby.data_directory out"
      );
    case "unreadable":
      return "run slotsync as the account that owns standby.data_directory";
  }
}
