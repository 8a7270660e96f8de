/** What codes of the gateway mean, in the page's language. */
import type { Problem } from "../api/problem";
import type { SkipReason } from "../api/types";
import { formatSeconds, t } from "../store/appearance";

/** Say what went wrong, and what the person can do. */
export function describeProblem(problem: Problem): string {
  const { problems } = t.value;
  if (problem.isOffline) return problems.offline;
  if (problem.status === 401) return problems.key;
  if (problem.status === 410) return problems.gone;
  if (problem.status === 429) {
    const seconds = problem.retryAfterSeconds;
    return seconds === null ? problems.busy : problems.busyFor(formatSeconds(seconds));
  }
  if (problem.code === "http_413") return problems.tooLarge;
  if (problem.code === "http_502" || problem.code === "http_504" || problem.code === "silent") return problems.between;
  return problems.other(problem.message);
}

export function describeReason(reason: SkipReason): string {
  return t.value.faces.reasons[reason] ?? reason;
}

export function describeStage(stage: string | null | undefined): string {
  const { stages } = t.value.progress;
  return stage && stage in stages ? stages[stage as keyof typeof stages] : stages.other;
}
