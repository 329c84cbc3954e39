import path from "node:path";
import { defineConfig } from "vitest/config";

// not part of `npm test`: it needs Docker, and fails without it
export default defineConfig({
  root: path.resolve(import.meta.dirname, "..", ".."),
  test: {
    name: "containers",
    include: ["test/containers/**/*.test.ts"],
    testTimeout: 300_000,
    hookTimeout: 600_000,
  },
});
