/** The state directory's files: what is written to them is on disk when the promise resolves. */
import { constants, type FileHandle, mkdir, open, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf, JournalWriteError } from "./errors.ts";

/** Makes the state directory when it is missing, for its owner alone. */
export async function ensureDirectory(directory: string): Promise<void> {
  try {
    await makeDirectory(directory);
  } catch (error) {
    throw new JournalWriteError("making the state directory", directory, error);
  }
}

// not mkdir's own `recursive`: where the kernel refuses with ENOENT, as in /proc, it tries for ever
async function makeDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { mode: 0o700 });
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT" && dirname(directory) !== directory && !(await isDirectory(dirname(directory)))) {
      await makeDirectory(dirname(directory));
      await makeDirectory(directory);
    } else if (!(await isDirectory(directory))) throw error;
  }
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** An empty file of ours at this place; never another that a link leads to. */
function openNew(path: string): Promise<FileHandle> {
  const { O_CREAT, O_NOFOLLOW, O_TRUNC, O_WRONLY } = constants;
  return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
}

/** Writes a whole file and waits until the device has it. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const file = await openNew(path);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** A rename is only on disk once its directory is. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
