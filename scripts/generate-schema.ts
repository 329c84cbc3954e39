// Writes config/slotsync.schema.json: npx tsx scripts/generate-schema.ts
import { writeFileSync } from "node:fs";
import { configSchemaJson } from "../src/config/schema.ts";

const target = new URL("../config/slotsync.schema.json", import.meta.url);
writeFileSync(target, `${JSON.stringify(configSchemaJson(), null, 2)}\n`);
