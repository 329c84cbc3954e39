/** How much is measured: in full, or quickly to see that it works. */
export interface Scope {
  quick: boolean;
  /** Says what is going on. */
  say: (text: string) => void;
}
