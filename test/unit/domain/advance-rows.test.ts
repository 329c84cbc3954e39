/** How far a slot is moved where advancing may let go of catalog rows that it still needs (I4). */
import { expect, test } from "vitest";
import { PROVEN, SETTLED, UNPROVISIONED } from "../../../src/domain/journal.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import { GUARD, journalOf, lsn, planFor, record, slot } from "./build.ts";

const LOW = GUARD.replace(/1$/, "2");

interface Case {
  claim: string;
  version: number;
  nextXid?: number;
  /** Where the low guard stands. */
  low?: number;
  young?: boolean;
  to: number;
}

test.each<Case>([
  { claim: "all the way where advancing keeps rows", version: 130_021, to: 500 },
  {
    claim: "else to where the primary's slot begins to decode: nothing promised is lost",
    version: 130_020,
    to: 450,
  },
  { claim: "… on 11 always", version: 110_022, low: 450, to: 450 },
  {
    claim: "… all the way while every transaction of before is done with, for the primary's slot too",
    version: 110_022,
    nextXid: 700,
    to: 500,
  },
  { claim: "… not while one may be open", version: 110_022, nextXid: 701, to: 450 },
  { claim: "… all the way while the low guard can make it anew", version: 120_022, low: 450, to: 500 },
  { claim: "… which one past that beginning cannot", version: 120_022, low: 451, to: 450 },
  { claim: "… nor one that does not count yet (I17)", version: 120_022, low: 450, young: true, to: 450 },
])("a slot is moved $claim (I4)", ({ version, nextXid = 800, low, young: isYoung = false, to }) => {
  const here = [slot("x", 400), slot(GUARD, 400)];
  const identity = { database: "db1", databaseOid: 1, state: "owned" as const, maxTarget: null };
  const guardAs = (name: string) => ({
    1: { ...identity, ...UNPROVISIONED, name, proof: PROVEN, beginning: SETTLED },
  });
  const young = { ...guardAs(LOW)[1], beginning: UNPROVISIONED.beginning };
  if (low !== undefined && version >= 120_000) here.push(slot(LOW, low));
  const { actions } = planFor({
    there: [slot("x", 500, { restartLsn: lsn(450) })],
    here,
    journal: journalOf([record("x", "owned", 400)], {
      guards: guardAs(GUARD) as never,
      lowGuards: low === undefined ? {} : ((isYoung ? { 1: young } : guardAs(LOW)) as never),
    }),
    primary: { serverVersionNum: version, oldestXid: nextXid as Xid },
    standby: { serverVersionNum: version },
  });
  expect(actions.flatMap((action) => (action.kind === "advance" ? [action.to] : []))).toEqual([lsn(to)]);
});
