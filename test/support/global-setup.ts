import { ensureServerBinaries } from "../../src/sandbox/binaries.ts";
import { removeAbandoned } from "../../src/sandbox/workspace.ts";
import { testedMajors } from "./majors.ts";
import { cleanTemplates } from "./template.ts";

/** Before all tests with real servers: fetch the binaries, remove what killed runs left. */
export async function setup(): Promise<void> {
  removeAbandoned();
  await cleanTemplates();
  for (const major of testedMajors()) {
    await ensureServerBinaries(major, { onProgress: (message) => process.stderr.write(`${message}\n`) });
  }
}

/** After them: the workers have ended, the killed ones without cleaning up. */
export function teardown(): void {
  removeAbandoned();
}
