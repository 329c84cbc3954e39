/**
 * Random histories of both servers, of the sidecar and of other people's hands, against a model that knows the truth (model.ts).
 * SLOTSYNC_PROPERTY_RUNS sets how many; a failure prints the shortest history that shows it.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { tally } from "./claims.ts";
import {
  CALM,
  type CycleScript,
  type Fate,
  reallyOurs,
  SidecarModel,
  type WorldStep,
} from "./sidecar-model.ts";

const RUNS = Number(process.env.SLOTSYNC_PROPERTY_RUNS ?? 1_000);
/** The everyday run takes the same histories each time, so that a failure is of the change at hand; a longer one takes new ones. */
const SEED = process.env.SLOTSYNC_SEED
  ? {
      seed: Number(process.env.SLOTSYNC_SEED),
      // of a failure: straight to the history that shows it
      ...(process.env.SLOTSYNC_PATH ? { path: process.env.SLOTSYNC_PATH } : {}),
    }
  : process.env.SLOTSYNC_PROPERTY_RUNS
    ? {}
    : { seed: 20_261_121 };
const NAMES = ["s0", "s1", "s2", "s3"];

type Step = { what: string; on: (model: SidecarModel) => void };
const shown = (what: string, on: (model: SidecarModel) => void): Step =>
  ({
    what,
    on,
    [fc.toStringMethod]: () => what,
  }) as Step;
const inWorld = (what: string, step: WorldStep): { what: string; step: WorldStep } =>
  ({ what, step, [fc.toStringMethod]: () => what }) as { what: string; step: WorldStep };

const name = fc.constantFrom(...NAMES);
const share = fc.integer({ min: 1, max: 4 });

const worldStep = fc.oneof(
  {
    weight: 5,
    arbitrary: fc
      .tuple(fc.constantFrom(0.25, 1, 8, 32), fc.boolean())
      .map(([mb, record]) => inWorld(`write(${mb})`, (world) => world.write(Math.ceil(mb), record))),
  },
  {
    weight: 5,
    arbitrary: fc
      .tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 4 }))
      .map(([flush, replay]) =>
        inWorld(`receive(${flush},${replay})`, (world) => world.receive(flush, replay)),
      ),
  },
  {
    weight: 5,
    arbitrary: fc.tuple(name, share).map(([slot, part]) =>
      inWorld(`confirm(${slot},${part})`, (world) => {
        const found = world.primary.get(slot);
        if (found) world.confirm(found, part);
      }),
    ),
  },
  {
    weight: 3,
    arbitrary: fc
      .record({
        slot: name,
        db: fc.constantFrom(1, 1, 1, 2, 3),
        plugin: fc.constantFrom("pgoutput", "pgoutput", "test_decoding"),
        twoPhase: fc.constantFrom(false, false, false, false, true),
        pending: fc.constantFrom(false, false, true),
        anew: fc.boolean(),
      })
      .map(({ slot, pending, anew, db, ...rest }) =>
        inWorld(`create(${slot},db${db},${rest.plugin},${rest.twoPhase},${pending},${anew})`, (world) => {
          if (db === 3 && world.thirdDatabaseAt === null) {
            world.write(1, false);
            world.thirdDatabaseAt = world.wal;
          }
          if (anew) world.primary.delete(slot);
          world.createOnPrimary({ name: slot, db, ...rest }, pending);
        }),
      ),
  },
  {
    weight: 1,
    arbitrary: fc.tuple(name, name, fc.boolean()).map(([slot, from, anew]) =>
      inWorld(`copy(${slot},${from},${anew})`, (world) => {
        if (slot === from) return;
        if (anew && world.primary.has(from)) world.primary.delete(slot);
        world.copyOnPrimary(slot, from);
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: name.map((slot) => inWorld(`drop(${slot})`, (world) => world.primary.delete(slot))),
  },
  { weight: 1, arbitrary: fc.constant(inWorld("crashPrimary", (world) => world.crashPrimary())) },
  { weight: 1, arbitrary: fc.constant(inWorld("checkpoint", (world) => world.checkpointPrimary())) },
  { weight: 1, arbitrary: fc.constant(inWorld("crashStandby", (world) => world.crashStandby())) },
  {
    weight: 1,
    arbitrary: fc.boolean().map((open) =>
      inWorld(`longTransaction(${open})`, (world) => {
        world.longTransaction = open;
      }),
    ),
  },
  { weight: 1, arbitrary: fc.constant(inWorld("restartpoint", (world) => world.doRestartpoint())) },
);

const worldSteps = fc.array(worldStep, { maxLength: 3 });

const fate: fc.Arbitrary<Fate> = fc.constantFrom("done", "done", "done", "fails", "late");
const seldom = (max: number) =>
  fc
    .option(fc.integer({ min: 0, max }), { freq: 3, nil: null })
    .map((value) => (value === null ? null : value));

const cycle = fc
  .record({
    gapMs: fc.constantFrom(200, 1_000, 6_000, 70_000),
    between: worldSteps,
    before: worldSteps,
    fates: fc.oneof(
      { weight: 3, arbitrary: fc.constant<Fate[]>(["done"]) },
      { weight: 1, arbitrary: fc.array(fate, { minLength: 1, maxLength: 4 }) },
    ),
    kill: fc.oneof({ weight: 4, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: seldom(6) }),
    peek: fc.oneof({ weight: 4, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: seldom(6) }),
    leavesStatement: fc.boolean(),
    slowGuards: fc.constantFrom(false, false, true),
  })
  .map(({ between, before, kill, peek, ...rest }) => {
    const script: CycleScript = {
      ...rest,
      betweenLooks: between.map(({ step }) => step),
      beforeActing: before.map(({ step }) => step),
      killAt: kill,
      peekAt: peek,
      leavesStatement: rest.leavesStatement,
    };
    const what = `cycle(${JSON.stringify({ ...rest, kill, peek: script.peekAt, between: between.map((s) => s.what), before: before.map((s) => s.what) })})`;
    return shown(what, (model) => model.cycle(script));
  });

const calmCycle = fc
  .constantFrom(200, 1_000, 6_000)
  .map((gapMs) => shown(`calm(${gapMs})`, (model) => model.cycle({ ...CALM, gapMs })));

/** Somebody's hands on the standby, and what the server does to slots by itself. */
const handStep = fc.oneof(
  name.map((slot) =>
    shown(`foreign(${slot})`, (model) => {
      model.world.makeForeign(slot, 1, "pgoutput");
      model.fresh = false;
    }),
  ),
  fc.tuple(name, share).map(([slot, part]) =>
    shown(`consumeHere(${slot},${part})`, (model) => {
      const found = model.world.standby.get(slot);
      if (!found || found.invalid || found.confirmed >= model.world.replay) return;
      model.world.move(found, found.confirmed + ((model.world.replay - found.confirmed) * BigInt(part)) / 4n);
      if (found.confirmed > found.meant) found.consumed = true;
      model.fresh = false;
    }),
  ),
  fc.tuple(name, fc.boolean()).map(([slot, guards]) =>
    shown(`dropHere(${slot},${guards})`, (model) => {
      const own = [...model.world.standby.keys()].find((key) => key.startsWith("slotsync_guard"));
      model.world.standby.delete(guards && own ? own : slot);
      model.fresh = false;
    }),
  ),
  name.map((slot) =>
    shown(`acquireHere(${slot})`, (model) => {
      const found = model.world.standby.get(slot);
      if (found) found.pid = found.pid === null ? 4711 : null;
      model.fresh = false;
    }),
  ),
  fc.tuple(name, fc.boolean()).map(([slot, guards]) =>
    shown(`invalidateHere(${slot},${guards})`, (model) => {
      const own = [...model.world.standby.keys()].find((key) => key.startsWith("slotsync_"));
      const found = model.world.standby.get(guards && own ? own : slot);
      if (found) found.invalid = "rows_removed";
      model.fresh = false;
    }),
  ),
  fc.constantFrom(null, "pgoutput", "test_decoding", "pgoutput test_decoding", "").map((allowed) =>
    shown(`allow(${allowed})`, (model) => {
      model.world.allowed = allowed;
      model.fresh = false;
    }),
  ),
  name.map((slot) =>
    shown(`invalidateThere(${slot})`, ({ world }) => {
      const found = world.primary.get(slot);
      if (found && found.confirmed !== null) found.invalid = "wal_removed";
    }),
  ),
);

const sidecarStep = fc.oneof(
  { weight: 3, arbitrary: fc.constant(shown("kill", (model) => model.kill())) },
  { weight: 1, arbitrary: fc.constant(shown("loseJournal", (model) => model.loseJournal())) },
  { weight: 2, arbitrary: fc.constant(shown("finishLate", (model) => model.finishLate())) },
  {
    weight: 1,
    arbitrary: fc
      .integer({ min: 0, max: 255 })
      .map((keep) => shown(`switchPrimary(${keep})`, ({ world }) => world.switchPrimary(keep))),
  },
  {
    weight: 1,
    arbitrary: name.map((slot) =>
      shown(`choose(${slot})`, (model) => {
        if (!model.excluded.delete(slot)) model.excluded.add(slot);
      }),
    ),
  },
);

const step = fc.oneof(
  { weight: 9, arbitrary: worldStep.map(({ what, step }) => shown(what, (model) => step(model.world))) },
  { weight: 5, arbitrary: cycle },
  { weight: 5, arbitrary: calmCycle },
  { weight: 2, arbitrary: handStep },
  { weight: 1, arbitrary: sidecarStep },
);

const setup = fc.record({
  guardDatabases: fc.constantFrom<"auto" | string[]>("auto", "auto", [], ["db1"]),
  maxSlots: fc.constantFrom(6, 8, 12),
});

/** Everything heals: the operator has acted on what is blocked, nothing fails, subscribers confirm. */
function heal(model: SidecarModel): void {
  const { world } = model;
  world.maxSlots = 64;
  world.longTransaction = false;
  world.allowed = null;
  for (const slot of [...world.primary.values()])
    if (slot.invalid || slot.twoPhase) world.primary.delete(slot.name);
  for (const slot of world.standby.values()) slot.pid = null;
  world.late = [];
  world.receive(4, 4);
  model.cycle(CALM);
  for (const record of [...model.journal.slots.values()])
    if (record.reason === "name_conflict") {
      const local = world.standby.get(record.name);
      if (local && (local.foreign || local.consumed)) world.standby.delete(record.name);
    }
  // what somebody else made under a name that is now free on the primary stays theirs
  for (const slot of [...world.standby.values()])
    if (slot.foreign && world.primary.has(slot.name)) world.standby.delete(slot.name);
}

test("no history makes it plan against I1, I5, I6, I7 or G1, break the promise of synced or guarded, or give a slot up", () => {
  fc.assert(
    fc.property(
      setup,
      fc.array(step, { minLength: 1, maxLength: 40, size: "max" }),
      ({ guardDatabases, maxSlots }, steps) => {
        const model = new SidecarModel(
          {
            guardDatabases,
            duty: 0.1,
            provision: "auto",
            restarts: false,
            onConflict: "adopt",
            releaseAfterMs: null,
          },
          maxSlots,
        );
        model.world.createOnPrimary({ name: "s0", db: 1, plugin: "pgoutput", twoPhase: false }, false);
        for (const { what, on } of steps) {
          on(model);
          model.checkPromises(what);
        }
        heal(model);
        idle(model);
        busy(model);
      },
    ),
    {
      numRuns: RUNS,
      ...SEED,
    },
  );
  if (process.env.SLOTSYNC_TALLY) console.log(Object.fromEntries([...tally].toSorted()));
}, 3_600_000);

/** With nobody writing and nobody confirming, whatever is within reach of a guard or here already becomes synced. */
function idle(model: SidecarModel): void {
  const { world } = model;
  for (let round = 0; round < 8; round += 1) {
    world.receive(4, 4);
    model.cycle({ ...CALM, gapMs: 20_000 });
  }
  for (const slot of world.primary.values()) {
    const record = model.journal.slots.get(slot.name);
    if (model.excluded.has(slot.name) || slot.confirmed === null || record?.reason === "wal_or_rows_removed")
      continue;
    expect(record, `an idle slot within reach is never given up: ${slot.name}`).toMatchObject({
      protection: "synced",
    });
  }
}

/** With everything healthy and subscribers confirming, every slot becomes synced. */
function busy(model: SidecarModel): void {
  const { world } = model;
  for (let round = 0; round < 12; round += 1) {
    world.write(2, true);
    world.receive(4, 4);
    for (const slot of world.primary.values()) world.confirm(slot, 4);
    model.cycle({ ...CALM, gapMs: 20_000 });
  }
  for (const slot of world.primary.values())
    if (!model.excluded.has(slot.name))
      expect(model.journal.slots.get(slot.name), `every slot becomes synced: ${slot.name}`).toMatchObject({
        protection: "synced",
      });
  for (const slot of world.standby.values())
    if (reallyOurs(slot) && !slot.consumed && !world.primary.has(slot.name))
      expect(slot.name, "nothing of ours is left under a name that is gone").toMatch(/^slotsync_/);
}
