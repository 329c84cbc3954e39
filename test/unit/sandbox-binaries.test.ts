/** Servers of an installation instead of the downloaded ones. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { ensureServerBinaries, installationVariable } from "../../src/sandbox/binaries.ts";
import { temporaryDirectory } from "../support/sidecar.ts";

function installation(version: string): string {
  const folder = temporaryDirectory();
  writeFileSync(path.join(folder, "postgres"), `#!/bin/sh\necho '${version}'\n`, { mode: 0o755 });
  return folder;
}

describe("SLOTSYNC_PG_15 names the programs of an installation", () => {
  afterEach(() => void vi.unstubAllEnvs());
  const ask = (folder: string) => {
    vi.stubEnv(installationVariable(15), folder);
    return ensureServerBinaries(15);
  };

  test("which then serve, under their own version", async () => {
    const folder = installation("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)");
    expect(await ask(folder)).toEqual({
      major: 15,
      version: "15.20",
      binDir: folder,
      libDir: path.join(folder, "..", "lib"),
    });
  });

  test.each([
    [
      "another major",
      () => installation("postgres (PostgreSQL) 16.4"),
      "which has postgres (PostgreSQL) 16.4",
    ],
    ["no server", () => temporaryDirectory(), "in which no postgres runs"],
    ["something else", () => installation("hello"), "which has hello"],
  ])("with %s there the key, the value and the fix are named", async (_, make, says) => {
    const folder = make();
    await expect(ask(folder)).rejects.toThrow(
      `SLOTSYNC_PG_15 is "${folder}", ${says}: set it to the folder of PostgreSQL 15 that holds postgres and initdb, or unset it`,
    );
  });
});
