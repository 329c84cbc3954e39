/** Marks the branch that a complete union never reaches; a new member then fails to compile, not to run. */
export function assertNever(value: never): never {
  throw new Error(`unhandled case: ${JSON.stringify(value)}`);
}
