#!/usr/bin/env node
import "./small-heap.ts";
import { main } from "./cli/program.ts";

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // a reader that has gone (`slotsync status | head -1`) is no error
  if (error.code === "EPIPE") process.exit();
  throw error;
});
process.exitCode = await main(process.argv.slice(2));
// what is still open by now (a connection on its way down) must not keep the process
setTimeout(() => process.exit(), 3_000).unref();
