import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { standardOutput } from "../../../src/cli/output.ts";
import { createProgram, main } from "../../../src/cli/program.ts";

let stdout = "";
let stderr = "";
beforeEach(() => {
  stdout = "";
  stderr = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    stdout += String(text);
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    stderr += String(text);
    return true;
  });
  for (const name of Object.keys(process.env)) if (name.startsWith("SLOTSYNC_")) vi.stubEnv(name, undefined);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

const COMMANDS = [
  "run",
  "sync",
  "status",
  "check",
  "finish",
  "flag",
  "unflag",
  "flags",
  "stage",
  "unstage",
  "seed",
  "release",
  "resync",
  "demo",
];

describe("the command line", () => {
  it.each([
    ["statsu", "status"],
    ["chekc", "check"],
    ["start", "run"],
    ["readiness", "check"],
    ["promote", "finish"],
    ["dry-run", "sync --dry-run"],
  ])("asks back: %s → %s", async (word, meant) => {
    expect(await main([word])).toBe(2);
    expect(stderr).toContain(`error: unknown command '${word}'\n(Did you mean ${meant}?)\n`);
    expect(stderr.match(/Did you mean/g)).toHaveLength(1);
  });

  it.each([
    [["check", "--jsno"], "--json"],
    [["check", "--slto", "a"], "--slot"],
    [["run", "--conifg", "x"], "--config"],
    [["sync", "--dryrun"], "--dry-run"],
    [["run", "--statedirectory=/x"], "--state-directory"],
  ])("asks back for options: %j → %s", async (args, meant) => {
    expect(await main(args)).toBe(2);
    expect(stderr).toContain(`(Did you mean ${meant}?)`);
  });

  it("refuses what is not there without a guess, and what is too much", async () => {
    expect(await main(["frobnicate"])).toBe(2);
    expect(stderr).not.toContain("Did you mean");
    expect(await main(["check", "app"])).toBe(2);
    expect(stderr).toContain("too many arguments");
  });

  it.each([
    [["finish", "--timeout", "soon"], "number of seconds"],
    [["finish", "--timeout", "-1"], "number of seconds"],
    [["demo", "--pg", "10"], "major version from 11 to 18"],
    [["check", "--set", "nap.min_ms"], "key=value"],
  ])("refuses %j", async (args, words) => {
    expect(await main(args)).toBe(2);
    expect(stderr).toContain(words);
  });

  it("explains itself: every command has help with examples and exit codes", async () => {
    expect(await main(["--help"])).toBe(0);
    for (const command of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${command} `, "m"));
    for (const command of COMMANDS) {
      stdout = "";
      expect(await main([command, "--help"])).toBe(0);
      for (const part of ["Usage: slotsync", "Examples:\n  ", "Exit codes: 0 "])
        expect(stdout).toContain(part);
    }
    expect(COMMANDS).toEqual(
      createProgram(standardOutput(), () => {}).commands.map((command) => command.name()),
    );
  });

  it("without a command shows the help and counts it as a mistake", async () => {
    expect(await main([])).toBe(2);
    expect(stderr).toContain("Usage: slotsync");
  });

  it("knows its version", async () => {
    expect(await main(["--version"])).toBe(0);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\S*\n$/);
  });

  it.each(["run", "sync", "status", "check", "finish"])(
    "%s: a wrong configuration is 2, said on stderr",
    async (command) => {
      expect(await main([command, "--set", "nap.min_sm=1"])).toBe(2);
      expect(stderr).toContain("standby.dsn: it is required");
      expect(stderr).toContain("did you mean nap.min_ms?");
      expect(stdout).toBe("");
    },
  );

  it("check --json says so in JSON: code 2, for whoever parses it", async () => {
    expect(await main(["check", "--json"])).toBe(2);
    expect(JSON.parse(stdout)).toEqual({
      code: 2,
      line: expect.stringContaining("standby.dsn: it is required"),
      status: null,
    });
  });
});
