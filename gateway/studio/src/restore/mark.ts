/** What state a photograph is in, from its entry and from what the gateway says of its jobs. Pure. */
import type { Photograph } from "../store/entries";
import type { JobState } from "../store/jobs";

export type Mark =
  | { kind: "finding" }
  | { kind: "found"; faces: number }
  | { kind: "waiting" }
  | { kind: "restoring"; share: number }
  | { kind: "restored" }
  | { kind: "cancelled" }
  | { kind: "failed"; message: string }
  | { kind: "expired" };

type Known = Pick<JobState, "job" | "gone">;

interface Circumstances {
  /** The job that found the faces. */
  finding: Known;
  restoring: Known;
  /** Why its restoration could not be asked for. */
  refused?: string;
  /** Milliseconds since 1970. */
  now: number;
}

export function markOf(photograph: Photograph, { finding, restoring, refused, now }: Circumstances): Mark {
  const isRestored = photograph.restoration !== null && isThere(restoring, now) && restoring.job?.status === "completed";
  if (!isThere(finding, now) && !isRestored) return { kind: "expired" };
  if (photograph.wanted) return { kind: "waiting" };
  if (refused) return { kind: "failed", message: refused };
  if (photograph.restoration !== null && isThere(restoring, now)) return restorationMark(restoring);
  if (photograph.faces !== null) return { kind: "found", faces: photograph.faces.length };
  const { job } = finding;
  if (job?.status === "failed") return { kind: "failed", message: job.error?.message ?? "" };
  if (job?.status === "cancelled") return { kind: "cancelled" };
  return { kind: "finding" };
}

/** Its outputs have not been deleted, as far as is known. */
export function isThere({ job, gone }: Known, now: number): boolean {
  return !gone && !(job?.expires_at && Date.parse(job.expires_at) <= now);
}

function restorationMark({ job }: Known): Mark {
  if (job?.status === "completed") return { kind: "restored" };
  if (job?.status === "failed") return { kind: "failed", message: job.error?.message ?? "" };
  if (job?.status === "cancelled") return { kind: "cancelled" };
  return { kind: "restoring", share: job?.status === "in_progress" ? job.progress : 0 };
}

/** How far a batch is: of those that have been asked for, 0 to 1. Null: nothing has been, or all has ended. */
export function batchShare(marks: readonly Mark[]): { share: number; done: number; of: number } | null {
  const asked = marks.filter(({ kind }) => ["waiting", "restoring", "restored", "failed"].includes(kind));
  if (!asked.some(({ kind }) => kind === "waiting" || kind === "restoring")) return null;
  const done = asked.filter(({ kind }) => kind === "restored" || kind === "failed").length;
  const begun = asked.reduce((sum, mark) => sum + (mark.kind === "restoring" ? mark.share : 0), 0);
  return { share: (done + begun) / asked.length, done, of: asked.length };
}
