import { conformance } from "./conformance.ts";

conformance(15);
