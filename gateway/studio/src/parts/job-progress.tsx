import { useEffect } from "preact/hooks";
import { cancelJob } from "../api/client";
import { Problem } from "../api/problem";
import { announce, say } from "../store/announcer";
import { formatNumber, formatSeconds, t } from "../store/appearance";
import { isFinal, type JobState, learn } from "../store/jobs";
import { describeProblem, describeStage } from "../text/words";
import "./job-progress.css";

/** How far a job is: its stage, a bar, the time that is left, and Cancel. Nothing once it has ended. */
export function JobProgress({ state, onCancel }: { state: JobState; onCancel?: () => void }) {
  const { job, offline, problem } = state;
  const stage = job ? stageOf(state) : t.value.state.unknown;
  const spoken = job ? stageOf(state, { exact: false }) : stage; // each step would be too much
  const trouble = offline ? t.value.progress.offline : problem ? describeProblem(problem) : null;
  useEffect(() => say(trouble ?? spoken), [trouble, spoken]);
  if (job && isFinal(job)) return null;
  const left = job?.estimated_seconds;
  const share = job?.status === "in_progress" ? job.progress : 0;

  async function cancel() {
    if (!job) return;
    try {
      learn(await cancelJob(job.id));
      onCancel?.();
    } catch (error) {
      if (error instanceof Problem) announce(describeProblem(error), "error");
    }
  }

  return (
    <div class="job-progress">
      <div class="job-progress-words">
        <span>{trouble ?? stage}</span>
        <span class="soft tabular">{trouble === null && left != null && t.value.progress.left(formatSeconds(left))}</span>
      </div>
      <div
        class="job-progress-bar"
        role="progressbar"
        aria-label={stage}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(100 * share)}
        aria-valuetext={formatNumber(share, { style: "percent" })}
      >
        <div style={{ transform: `scaleX(${share})` }} />
      </div>
      <button type="button" class="button small" onClick={cancel} disabled={!job}>
        {t.value.common.cancel}
      </button>
    </div>
  );
}

/** What a job that has not ended is doing, in words. `exact`: with its step, or how many jobs come first. */
export function stageOf({ job }: Pick<JobState, "job">, { exact = true } = {}): string {
  const { progress } = t.value;
  if (!job) return progress.stages.other;
  if (job.status === "queued") {
    const ahead = job.queue_position ?? 0;
    if (job.attempts > 0 || job.started_at) return progress.waiting;
    return exact && ahead > 0 ? `${progress.queued}: ${progress.ahead(ahead)}` : progress.queued;
  }
  const step = exact && job.step != null && (job.steps ?? 0) > 1 ? ` (${job.step}/${job.steps})` : "";
  return describeStage(job.stage ?? (job.type === "detect" ? "detect" : job.type === "generate" ? "" : "restore")) + step;
}
