import { afterAll, beforeAll, beforeEach, onTestFinished } from "vitest";
import { failOnLeaks, type OpenThings, openThings } from "./leaks.ts";

// Hooks end in the reverse of their order, and this file's are the first of all: they look last.
let beforeFile: OpenThings;

beforeAll(() => {
  beforeFile = openThings();
});

beforeEach(() => {
  const beforeTest = openThings();
  onTestFinished(() => failOnLeaks(beforeTest));
});

afterAll(() => failOnLeaks(beforeFile));
