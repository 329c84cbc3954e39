export interface RestartRecord {
  at: number;
  names: string[];
  outcome: "running" | "done" | "failed";
  detail: string | null;
  window: number | null;
}
