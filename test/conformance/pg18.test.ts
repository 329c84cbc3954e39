import { conformance } from "./conformance.ts";

conformance(18);
