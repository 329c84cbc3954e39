// Runs one of the project's tasks, installing the locked dependencies first when they are missing or stale,
// so that `npm test` and `npm run demo` need no command before them. Plain Node: nothing is installed yet.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const bin = (name) => path.join(root, "node_modules", ".bin", name);

const TASKS = {
  build: [["tsc", "-p", "tsconfig.build.json"]],
  test: [["vitest", "run"]],
  check: [
    ["biome", "check", "--error-on-warnings", "."],
    ["tsc", "-p", "tsconfig.json"],
    ["knip"],
  ],
  demo: [["tsc", "-p", "tsconfig.build.json"], ["node", "dist/main.js", "demo"]],
  bench: [["tsc", "-p", "tsconfig.build.json"], ["tsx", "bench/main.ts"]],
};

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

function installDependencies() {
  const lock = createHash("sha256").update(readFileSync(path.join(root, "package-lock.json"))).digest("hex");
  const stamp = path.join(root, "node_modules", ".pg-slotsync-lock");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  process.stderr.write("installing the locked dependencies (npm ci) …\n");
  // no install scripts: nothing here needs one, and some of them compile or download
  const npm = spawnSync("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], {
    cwd: root,
    stdio: ["ignore", "ignore", "inherit"],
  });
  if (npm.status !== 0) fail("npm ci failed; its message is above", npm.status ?? 1);
  writeFileSync(stamp, lock);
}

function run(task, extra) {
  const steps = TASKS[task];
  if (!steps) fail(`unknown task "${task}"; known: ${Object.keys(TASKS).join(", ")}`, 2);
  for (const [index, [command, ...args]] of steps.entries()) {
    const last = index === steps.length - 1;
    const file = command === "node" ? process.execPath : bin(command);
    const child = spawnSync(file, [...args, ...(last ? extra : [])], { cwd: root, stdio: "inherit" });
    if (child.error) throw child.error;
    if (child.status !== 0) process.exit(child.status ?? 1);
  }
}

requireNode();
installDependencies();
run(process.argv[2], process.argv.slice(3));
