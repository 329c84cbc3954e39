/**
 * A sidecar shares its machine with a database: keep the young generation from growing to its 48 MB, which a process that makes a
 * little garbage five times a second never needs. Imported first, before anything is there to make it grow.
 */
import { setFlagsFromString } from "node:v8";

setFlagsFromString("--semi-space-growth-factor=1");
