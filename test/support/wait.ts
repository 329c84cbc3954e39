// one way to wait, for tests and for what they test with
export { eventually, type PollOptions } from "../../src/sandbox/poll.ts";
