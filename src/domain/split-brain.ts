/** More than one server answers as primary. */
import type { Problem } from "./prerequisites.ts";

/** A server that is out of recovery. */
export interface AnsweringPrimary {
  /** `host:port/database as user` */
  target: string;
  systemIdentifier: string;
  timeline: number;
}

/** What is wrong with `others` answering out of recovery beside the one that is asked: one message for each kind, naming all. */
export function splitBrainProblems(asked: AnsweringPrimary, others: readonly AnsweringPrimary[]): Problem[] {
  const named = ({ target, timeline }: AnsweringPrimary) => `${target} (timeline ${timeline})`;
  const problems: Problem[] = [];
  const twins = others.filter(({ systemIdentifier }) => systemIdentifier === asked.systemIdentifier);
  const foreign = others.filter(({ systemIdentifier }) => systemIdentifier !== asked.systemIdentifier);
  if (twins.length > 0)
    problems.push({
      code: "split_brain",
      severity: "stop",
      message: `${twins.length + 1} servers answer as primary of this cluster: ${[asked, ...twins].map(named).join(" and ")}: nothing is synced until all but one are stopped or follow it`,
    });
  for (const { target, systemIdentifier } of foreign)
    problems.push({
      code: "system_identifier_differs",
      severity: "stop",
      message: `the hosts of the primary are of several clusters: ${asked.target} has the system identifier ${asked.systemIdentifier}, ${target} has ${systemIdentifier}: take out those that are not this standby's`,
    });
  return problems;
}
