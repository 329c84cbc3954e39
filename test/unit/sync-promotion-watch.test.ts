/** What is a sign of promotion in a standby's data directory, and what is none. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { beforeEach, expect, onTestFinished, test } from "vitest";
import { PromotionWatch } from "../../src/sync/promotion-watch.ts";
import { eventually } from "../support/wait.ts";

let directory = "";
const inside = (name: string) => path.join(directory, name);
const write = (name: string) => writeFileSync(inside(name), "");

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), "slotsync-watch-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  write("standby.signal");
});

function watched() {
  const seen = { promotes: 0, gone: 0 };
  const watch = new PromotionWatch(directory, {
    onPromote: () => {
      seen.promotes += 1;
    },
    onSignalGone: () => {
      seen.gone += 1;
    },
  });
  onTestFinished(() => watch.close());
  return { watch, seen };
}

/** Events come in their order: once this one has been seen, all that came before it has. */
async function untilSeen(seen: { promotes: number }): Promise<void> {
  const before = seen.promotes;
  write("promote");
  await eventually(() => seen.promotes > before, { what: "the promote file to be noticed" });
}

test("the promote file is a sign, also when it is gone at once", async () => {
  const { seen } = watched();
  write("promote");
  rmSync(inside("promote"));
  await eventually(() => seen.promotes > 0, { what: "the sign" });
});

test("a standby.signal that is only written again, in place or by a file put in its place, is no sign (K7)", async () => {
  const { seen } = watched();
  for (let round = 0; round < 20; round += 1) {
    writeFileSync(inside("standby.signal"), "x");
    rmSync(inside("standby.signal"));
    write("standby.signal");
    write("new");
    renameSync(inside("new"), inside("standby.signal"));
  }
  await untilSeen(seen);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(seen.gone).toBe(0);
});

test("a standby.signal that stays away is for the server to explain", async () => {
  const { seen } = watched();
  rmSync(inside("standby.signal"));
  await eventually(() => seen.gone > 0, { what: "the question" });
  expect(seen.promotes).toBe(0);
});

test("a data directory that was put in the place of the old one is watched once the server is back (K7)", async () => {
  const { watch, seen } = watched();
  renameSync(directory, `${directory}.old`);
  onTestFinished(() => rmSync(`${directory}.old`, { recursive: true, force: true }));
  watch.rearm();
  expect(watch.failed).toContain("ENOENT");
  mkdirSync(directory);
  watch.rearm();
  expect(watch.failed).toBeNull();
  await untilSeen(seen);
});
