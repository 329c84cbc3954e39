import { conformance } from "./conformance.ts";

conformance(14);
