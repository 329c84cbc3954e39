/** The file model itself: it knows that rows go when nothing holds them, so that the random histories may be trusted with I4. */
import { expect, test } from "vitest";
import { CALM, FileSidecar } from "./file-sidecar.ts";
import { FileWorld } from "./file-world.ts";

function started(fed: boolean): FileSidecar {
  const world = new FileWorld(140_023, 700);
  const model = new FileSidecar(world, {
    guardDatabases: "auto",
    duty: 0.1,
    provision: "auto",
    restarts: false,
    onConflict: "adopt",
    releaseAfterMs: null,
  });
  world.createOnPrimary({ name: "s0", databaseOid: 1, plugin: "pgoutput", twoPhase: false });
  for (let round = 0; round < 2; round += 1) world.unfed(["s0"]);
  world.checkpointPrimary();
  const looks = () => {
    for (let look = 0; look < 3; look += 1) model.cycle({ ...CALM, gapMs: 20_000 });
  };
  looks();
  world.restart(true);
  world.receive(4, 4);
  if (fed) world.feedback();
  looks();
  return model;
}

test("a slot that no feedback holds yet is not ready, and nothing unsafe wears its name when its rows go (I4, I6)", () => {
  for (const fed of [false, true]) {
    const model = started(fed);
    expect(model.journal.slots.get("s0")?.protection).toBe(fed ? "synced" : "waiting");
    for (let round = 0; round < 4; round += 1) {
      // the primary's slot goes on unseen, and its rows are removed
      model.world.begin();
      model.world.unfed(["s0"]);
      model.world.end(0);
      model.world.unfed(["s0"]);
      model.checkPromises(`round ${round}`);
    }
    const [before] = [...model.world.primary.values()];
    expect((model.world.removals.at(-1)?.before ?? 0) > (fed ? 0 : 706), String(before?.xmin)).toBe(true);
  }
});
