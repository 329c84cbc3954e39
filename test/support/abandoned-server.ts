// Run by a test as a process of its own: starts a server, says where, and waits to be killed.
import { createPrimary } from "../../src/sandbox/cluster.ts";

const server = await createPrimary({ major: Number(process.argv[2]), fsync: false });
process.stdout.write(`${JSON.stringify({ dir: server.workspace.dir, pid: server.pid })}\n`);
setInterval(() => {}, 1000);
