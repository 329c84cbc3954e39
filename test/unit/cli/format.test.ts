import { describe, expect, it } from "vitest";
import { checkAnswer } from "../../../src/cli/check.ts";
import { formatFinish } from "../../../src/cli/format-finish.ts";
import { formatStatus } from "../../../src/cli/format-status.ts";
import { Settling } from "../../../src/cli/settling.ts";
import { plainAction } from "../../../src/cli/sync.ts";
import {
  coloured,
  formatAge,
  formatBytes,
  paintFor,
  plain,
  printable,
  table,
} from "../../../src/cli/terminal.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import type { RestartRecord } from "../../../src/domain/restart.ts";
import { prettyLine } from "../../../src/log/pretty.ts";
import { aFinish, aSlot, aStatus, NOW } from "./samples.ts";

const ESC = "\u001b";

describe("the terminal", () => {
  it("gets colours only where it is one, and not against NO_COLOR", () => {
    expect(paintFor({ isTTY: true }, {})("red", "x")).toBe(`${ESC}[31mx${ESC}[39m`);
    expect(paintFor({ isTTY: true }, { NO_COLOR: "" })("red", "x")).toBe(`${ESC}[31mx${ESC}[39m`);
    for (const [stream, env] of [
      [{ isTTY: true }, { NO_COLOR: "1" }],
      [{ isTTY: true }, { TERM: "dumb" }],
      [{ isTTY: false }, {}],
      [{}, {}],
    ] as const)
      expect(paintFor(stream, env)("red", "x")).toBe("x");
  });

  it("is never steered by names from another machine (I13)", () => {
    expect(printable(`a${ESC}[2Jb\r\nc\u202ed\u2028`)).toBe("a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{202e}d\\u{2028}");
    expect(printable("Grüße, 日本")).toBe("Grüße, 日本");
    const hostile = aStatus({ slots: [aSlot({ database: `${ESC}]0;owned\u0007`, detail: "a\nb" })] });
    const text = formatStatus(
      { standby: `x${ESC}c`, status: hostile, certain: true, sidecar: null },
      NOW,
      plain,
    );
    expect(text).not.toContain(ESC);
    expect(prettyLine(JSON.stringify({ level: "info", msg: `a${ESC}[31m\nb`, time: "" }))).not.toContain(ESC);
  });

  it("shows tables whose columns line up, with and without colours", () => {
    const columns = [{ title: "NAME" }, { title: "LAG", align: "right" }, { title: "WHY" }] as const;
    const rows = [
      [{ text: "a" }, { text: "12 B" }, { text: "" }],
      [{ text: "longer", style: "red" }, { text: "1 B" }, { text: "because" }],
    ] as const;
    const text = "NAME     LAG  WHY\na       12 B\nlonger   1 B  because\n";
    expect(table(columns, rows, plain)).toBe(text);
    const stripped = table(columns, rows, coloured).replaceAll(new RegExp(`${ESC}\\[\\d+m`, "g"), "");
    expect(stripped.replaceAll(/ +$/gm, "")).toBe(text);
  });

  it.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1.0 KiB"],
    [1536, "1.5 KiB"],
    [250 * 1024 * 1024, "250 MiB"],
    [-2048, "-2.0 KiB"],
  ])("shows %i bytes as %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [-5, "0 s"],
    [119_999, "119 s"],
    [120_000, "2 min"],
    [7_200_000, "2 h"],
    [172_800_000, "2 d"],
  ])("shows %i ms as %s", (ms, text) => expect(formatAge(ms)).toBe(text));
});

describe("the status for people", () => {
  it("says first what check says, then shows every slot, and why one is not ready", () => {
    const status = aStatus({
      ready: false,
      slots: [
        aSlot({ name: "app" }),
        aSlot({
          name: "lazy",
          protection: "waiting",
          reason: "wal_not_flushed",
          detail: "it is 5 bytes ahead",
          lagBytes: null,
          chosenBy: ["registry", 'rule name "lazy"'],
        }),
      ],
      notChosen: [
        {
          name: "scratch",
          database: "shop",
          plugin: "pgoutput",
          why: "not flagged, no rule of slots.include matches",
          excluded: false,
        },
      ],
      problems: [{ code: "too_many_slots", severity: "warning", message: "raise max_replication_slots" }],
      guards: [
        { database: "shop", name: "slotsync_guard_5_00000000_1", confirmedFlushLsn: "0/5000" },
        { database: "crm", name: "slotsync_guard_6_00000000_2", confirmedFlushLsn: null },
      ],
    });
    const sidecar = { pid: 4711, host: "db2", command: "slotsync run", since: NOW - 60_000 };
    expect(formatStatus({ standby: "db2", status, certain: true, sidecar }, NOW, plain)).toBe(
      `db2: not ready: 1 of 2 failover slots: "lazy" is waiting (wal_not_flushed): it is 5 bytes ahead

NAME  DATABASE  PROTECTION  REASON               LAG  SINCE  CHOSEN BY
app   shop      synced      -                1.0 KiB   90 s  registry
lazy  shop      waiting     wal_not_flushed        -   90 s  registry, rule name "lazy"
lazy: it is 5 bytes ahead

NOT CHOSEN  DATABASE  WHY
scratch     shop      not flagged, no rule of slots.include matches

warning (too_many_slots): raise max_replication_slots

GUARD OF  AT          SLOT
shop      0/5000      slotsync_guard_5_00000000_1
crm       being made  slotsync_guard_6_00000000_2

sidecar: process 4711 on db2 (slotsync run), for 60 s
`,
    );
  });

  it("shows the gap report on a primary, and no slots as if it were a standby", () => {
    const status = aStatus({ role: "primary", ready: false, finish: aFinish() });
    const text = formatStatus({ standby: "db2", status, certain: true, sidecar: null }, NOW, plain);
    expect(text).toContain("db2: not ready: this node is a primary, not a standby\n");
    expect(text).toContain("\nThe last promotion, 10 s ago:\nSLOT ");
    expect(text).not.toContain("PROTECTION");
  });
});

describe("the gap report", () => {
  it("shows for each slot where it was seen, where it stands, and what this node lacks", () => {
    expect(formatFinish(aFinish(), plain)).toBe(
      `SLOT  DATABASE  OUTCOME        LAST SEEN  POSITION  MISSING HERE
app   shop      advanced       0/5000     0/5000               -
gone  shop      not_protected  0/1000     -                    -
ours  shop      materialised   0/9000     0/8000         4.0 KiB
gone: no guard of this node reaches back to its position

promotion finished in 42 ms: 1 advanced, 1 not protected, 1 materialised; 1 subscriber(s) confirmed transactions that this node lacks: ours (4096 bytes of WAL)
`,
    );
  });

  it("says so when there was nothing, and when it is not complete", () => {
    expect(formatFinish(aFinish({ slots: [] }), plain)).toBe(
      "promotion finished in 42 ms: no slots; no subscriber was seen to have more than this node\n",
    );
    expect(formatFinish(aFinish({ complete: false, slots: [] }), plain)).toContain("NOT finished");
  });
});

describe("check's answer", () => {
  const reading = { status: aStatus({ slots: [aSlot({ name: "billing" })] }), certain: true };

  it("asks back when a name is nearly right", () => {
    expect(checkAnswer(reading, "biling")).toEqual({
      code: 1,
      line: 'not ready: no failover slot is named "biling"; did you mean "billing"?',
    });
    expect(checkAnswer(reading, "zzz").line).not.toContain("did you mean");
    expect(checkAnswer(reading, "billing")).toMatchObject({ code: 0 });
  });

  it("cannot tell when no slot is chosen; a primary is not ready whatever is chosen", () => {
    const problems = [{ code: "nothing_chosen", severity: "doubt", message: "no slot is chosen" } as const];
    expect(checkAnswer({ status: aStatus({ problems }), certain: true }, undefined)).toEqual({
      code: 2,
      line: "cannot tell: no slot is chosen",
    });
    const primary = { status: aStatus({ role: "primary", problems }), certain: true };
    expect(checkAnswer(primary, undefined)).toMatchObject({ code: 1 });
    expect(checkAnswer(primary, "biling").line).not.toContain("did you mean");
  });

  it("a doubt stands against being ready, a warning does not", () => {
    const withOne = (severity: "doubt" | "warning") =>
      checkAnswer(
        { status: { ...reading.status, problems: [{ code: "x", severity, message: "m" }] }, certain: true },
        undefined,
      );
    expect(withOne("doubt")).toEqual({ code: 1, line: "not ready: m" });
    expect(withOne("warning")).toMatchObject({ code: 0 });
  });
});

describe("sync", () => {
  it("ends with the first quiet cycle, or on a busy primary when no protection changes any more", () => {
    const waiting = aStatus({ slots: [aSlot({ protection: "waiting", reason: "wal_not_flushed" })] });
    const synced = aStatus({ slots: [aSlot()] });
    const quiet = new Settling();
    expect(quiet.isSettled(waiting, true, true)).toBe(false);
    expect(quiet.isSettled(waiting, false, true)).toBe(false);
    expect(quiet.isSettled(synced, true, false)).toBe(false);
    expect(quiet.isSettled(synced, false, false)).toBe(true);

    const busy = new Settling();
    const cycles = [waiting, waiting, synced, synced, synced, synced, synced, synced];
    expect(cycles.map((status) => busy.isSettled(status, true, false))).toEqual([
      ...Array.from({ length: 7 }, () => false),
      true,
    ]);
  });

  it("prints an action as JSON with positions as text", () => {
    const action = {
      kind: "advance",
      slot: "app",
      database: "shop",
      databaseOid: 5,
      at: 0x4000n as Lsn,
      to: 0x5000n as Lsn,
      unsure: false,
    } as const;
    expect(JSON.parse(JSON.stringify(plainAction(action)))).toEqual({
      kind: "advance",
      slot: "app",
      database: "shop",
      databaseOid: 5,
      at: "0/4000",
      to: "0/5000",
      unsure: false,
      description: 'advance slot "app" to 0/5000',
    });
  });
});

describe("the log for people", () => {
  it("is a line with the time, the level, the message and what else there is", () => {
    const record = {
      level: "warn",
      time: "2026-01-02T03:04:05.678Z",
      standby: "db2",
      slot: "app",
      reason: "name_conflict",
      msg: "a slot is in the way",
    };
    expect(prettyLine(JSON.stringify(record))).toBe(
      '03:04:05.678 warn  a slot is in the way slot="app" reason="name_conflict"\n',
    );
    expect(prettyLine("not JSON\n")).toBe("not JSON\n");
  });
});

describe("a restart command that failed", () => {
  const told = (more: Partial<RestartRecord>) => {
    const last = { at: NOW - 5_000, names: ["a"], detail: "no", failures: 1, window: null, ...more };
    const restart = { slots: 1, guards: 0, staged: ["a"], last: last as RestartRecord };
    const shown = { standby: "db2", status: aStatus({ restart }), certain: true, sidecar: null };
    return /last restart: .*/.exec(formatStatus(shown, NOW, plain))?.[0];
  };

  it("is told with when it is tried again, and one that did its work is not", () => {
    const retryAt = NOW + 60_000;
    expect(told({ outcome: "failed", retryAt })).toBe(
      `last restart: 5 s ago, failed (no); tried again in ${formatAge(60_000)}`,
    );
    expect(told({ outcome: "failed", retryAt, window: NOW - 9_000 })).toMatch(/in the next window$/);
    expect(told({ outcome: "not_started", retryAt: NOW })).toBe(
      "last restart: 5 s ago, not started (no); tried again now",
    );
    expect(told({ outcome: "done", retryAt: null, detail: null })).toBe("last restart: 5 s ago, done");
  });
});
