/** Exit codes, the same for every command; each command's help says what they mean for it. */
export const EXIT = { ok: 0, no: 1, cannotTell: 2 } as const;

/** After a signal, as a shell reports it. */
export const SIGNAL_EXIT: Readonly<Partial<Record<NodeJS.Signals, number>>> = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGTERM: 143,
};

/** Ends the command with a message for people and an exit code. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitCode: number;

  constructor(message: string, exitCode: number, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}
