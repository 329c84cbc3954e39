/** What can be wrong with the state directory, each with the operator's way out. */

/** The file is there, and is not a journal that can be believed. Set aside by `openJournal`, never read on a guess (I10). */
export class JournalDamagedError extends Error {
  override readonly name = "JournalDamagedError";
  readonly path: string;
  readonly problem: string;

  constructor(path: string, problem: string) {
    super(`the journal ${path} is damaged: ${problem}`);
    this.path = path;
    this.problem = problem;
  }
}

/** A newer version's journal is sound, only not ours to read: setting it aside would throw good evidence away. */
export class JournalVersionError extends Error {
  override readonly name = "JournalVersionError";
  readonly path: string;
  readonly version: number;

  constructor(path: string, version: number, supported: number) {
    super(
      `the journal ${path} was written by a newer pg-slotsync (journal version ${version}; this one reads up to ${supported}): ` +
        "run that version again, or move the file away to start over with an empty journal",
    );
    this.path = path;
    this.version = version;
  }
}

/** A file of the state directory could not be read: nothing is known of what it says. */
export class JournalReadError extends Error {
  override readonly name = "JournalReadError";
  readonly path: string;
  readonly code: string;

  constructor(path: string, cause: unknown) {
    const code = errnoOf(cause);
    super(`cannot read ${path} (${code}): ${fixFor(code)}`, { cause });
    this.path = path;
    this.code = code;
  }
}

/** Something in the state directory could not be written. What was there before is intact. */
export class JournalWriteError extends Error {
  override readonly name = "JournalWriteError";
  readonly path: string;
  readonly code: string;

  constructor(doing: string, path: string, cause: unknown) {
    const code = errnoOf(cause);
    super(`${doing} ${path} failed (${code}): ${fixFor(code)}`, { cause });
    this.path = path;
    this.code = code;
  }
}

/** The system's code of a failed call (`ENOSPC`), or the error's own text when it has none. */
export function errnoOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return (error as NodeJS.ErrnoException).code ?? error.message;
}

function fixFor(code: string): string {
  switch (code) {
    case "ENOSPC":
      return "the file system is full; free space on it";
    case "EDQUOT":
      return "this user's disk quota is used up; raise it or free space";
    case "EROFS":
      return "the file system is mounted read-only; remount it read-write or set state_directory to another place";
    case "EACCES":
    case "EPERM":
      return "this user may not; give the state directory to the user that runs slotsync, or set state_directory to another place";
    case "ENOENT":
      return "the state directory is gone; restore it, or start slotsync again to have it made anew";
    case "ENOTDIR":
    case "EEXIST":
      return "something that is not a directory stands in the path; move it away or correct state_directory";
    case "EISDIR":
    case "ENOTEMPTY":
      return "a directory stands where the file belongs; move it away";
    case "EMFILE":
    case "ENFILE":
      return "no file descriptors are left; raise the limit (LimitNOFILE, ulimit -n)";
    case "EIO":
      return "the device reports an error; check the disk and the kernel's log";
    case "ENOTSUP":
    case "EOPNOTSUPP":
    case "ENOSYS":
      return "this file system lacks what is needed (hard links); set state_directory to a local one";
    default:
      return "check state_directory";
  }
}
