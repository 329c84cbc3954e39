/** What a connection pooler between the sidecar and a server does to it: sessions outlive whoever had them. */
import type { Pin } from "./observation.ts";
import type { Problem } from "./prerequisites.ts";

/** `pooled` are the keys of the configuration whose connections lead through one. */
export function poolerProblems(pooled: readonly string[], strays: readonly Pin[]): Problem[] {
  const problems: Problem[] = [];
  if (pooled.length > 0)
    problems.push({
      code: "connection_pooled",
      severity: "warning",
      message: `${pooled.join(" and ")} ${pooled.length === 1 ? "leads" : "lead"} through a connection pooler: what a killed sidecar held in a session there lives on with that session. Let the sidecar connect to the server itself`,
    });
  if (strays.length > 0)
    problems.push({
      code: "stray_pins",
      severity: "warning",
      message: `temporary slots of a killed sidecar hold WAL and catalog rows on the primary, in sessions that are not the sidecar's to end: ${strays
        .slice(0, 3)
        .map(({ name, pid }) => `"${name}" in server process ${pid}`)
        .join(", ")}. End them there: ${strays
        .slice(0, 3)
        .map(({ pid }) => `SELECT pg_terminate_backend(${pid})`)
        .join("; ")}`,
    });
  return problems;
}
