// Runs one of the project's tasks, installing the locked dependencies first when they are missing or stale,
// so that `npm test` and `npm run demo` need no command before them. Plain Node: nothing is installed yet.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const bin = (name) => path.join(root, "node_modules", ".bin", name);

const BUILD = [
  ["tsc", "-p", "tsconfig.build.json"],
  // tsc leaves it without the bit that lets it run as it is
  ["node", "-e", "require('node:fs').chmodSync('dist/main.js', 0o755)"],
];

const TASKS = {
  build: BUILD,
  test: [["vitest", "run"]],
  check: [["biome", "check", "--error-on-warnings", "."], ["tsc", "-p", "tsconfig.json"], ["knip"]],
  conformance: [
    [
      "vitest",
      "run",
      "test/conformance",
      "--reporter=default",
      "--reporter=json",
      "--outputFile.json=.cache/conformance.json",
    ],
    ["tsx", "scripts/conformance.ts", ".cache/conformance.json"],
  ],
  demo: [...BUILD, ["node", "dist/main.js", "demo"]],
  bench: [...BUILD, ["tsx", "bench/main.ts"]],
};

let child;

// Whoever stops npm means what it runs. We end when the child has, so that its clean-up is over when we are gone.
function stop(name) {
  if (!child) process.exit(128 + os.constants.signals[name]);
  child.kill(name);
}
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(name, () => {
    // Ctrl-C has reached the child already: the terminal sends it to all of us, and a second one forces
    if (child === undefined || name !== "SIGINT" || !process.stdin.isTTY) stop(name);
  });
}

// npm runs us through a shell, and some shells die of a SIGTERM without passing it on: our parent is then another one
if (process.env.npm_lifecycle_event !== undefined) {
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    stop("SIGTERM");
  }, 200);
  watch.unref();
}

/** Runs a program, and resolves with its exit code; 128 and the signal's number when one ended it. */
function runChild(file, args, stdio) {
  return new Promise((resolve) => {
    child = spawn(file, args, { cwd: root, stdio });
    child.once("error", (error) => {
      fail(`${path.basename(file)} could not be run: ${error.message}`);
    });
    child.once("close", (code, signalName) => {
      child = undefined;
      resolve(code ?? 128 + os.constants.signals[signalName]);
    });
  });
}

function fail(message, code = 1) {
  process.stderr.write(`${message}\n`);
  process.exit(code);
}

function requireNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(`pg-slotsync needs Node 20.19 or newer; this is ${process.versions.node}`);
  }
}

async function installDependencies() {
  const lock = createHash("sha256")
    .update(readFileSync(path.join(root, "package-lock.json")))
    .digest("hex");
  const stamp = path.join(root, "node_modules", ".pg-slotsync-lock");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  process.stderr.write("installing the locked dependencies (npm) …\n");
  // Not `npm ci`: npm 11 refuses a lockfile in which packages for other platforms are missing, and a registry that mirrors only some
  // platforms leads to one (npm/cli#9846). This installs what the lockfile says, and --no-save leaves that file alone.
  // No install scripts: nothing here needs one, and some of them compile or download.
  const args = ["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const code = await runChild("npm", args, ["ignore", "ignore", "inherit"]);
  if (code > 128) process.exit(code);
  if (code !== 0) fail("npm could not install the dependencies; its message is above", code);
  writeFileSync(stamp, lock);
}

async function run(task, extra) {
  const steps = TASKS[task];
  if (!steps) fail(`unknown task "${task}"; known: ${Object.keys(TASKS).join(", ")}`, 2);
  for (const [index, [command, ...args]] of steps.entries()) {
    const last = index === steps.length - 1;
    const file = command === "node" ? process.execPath : bin(command);
    const code = await runChild(file, [...args, ...(last ? extra : [])], "inherit");
    if (code !== 0) process.exit(code);
  }
}

requireNode();
await installDependencies();
await run(process.argv[2], process.argv.slice(3));
