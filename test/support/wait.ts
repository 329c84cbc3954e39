// one way to wait, for tests and for what they test with
export { eventually } from "../../src/sandbox/poll.ts";
