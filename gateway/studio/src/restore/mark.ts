/** What state a photograph is in, from its entry and from what the gateway says of its jobs. Pure. */
import type { Job, RestoreReport } from "../api/types";
import type { Photograph } from "../store/entries";
import type { JobState } from "../store/jobs";
import { isChanged } from "./edits";

export type Mark =
  | { kind: "finding" }
  | { kind: "found"; faces: number }
  | { kind: "waiting" }
  | { kind: "restoring"; share: number }
  | { kind: "restored" }
  /** Something else has been chosen since it was restored. */
  | { kind: "changed" }
  /** It was done, but no face was restored and nothing enlarged. */
  | { kind: "unchanged" }
  | { kind: "cancelled" }
  | { kind: "failed"; message: string; code?: string }
  | { kind: "expired" };

type Known = Pick<JobState, "job" | "gone">;

interface Circumstances {
  /** The job that found the faces. */
  finding: Known;
  restoring: Known;
  /** Milliseconds since 1970. */
  now: number;
}

export function markOf(photograph: Photograph, { finding, restoring, now }: Circumstances): Mark {
  const isRestored = photograph.restoration !== null && isThere(restoring, now) && restoring.job?.status === "completed";
  if (!isThere(finding, now) && !isRestored) return { kind: "expired" };
  if (photograph.wanted) return { kind: "waiting" };
  const { refusal } = photograph; // its restoration could not be asked for
  if (refusal) return { kind: "failed", message: sentenceOf(refusal), code: refusal.code };
  if (photograph.restoration !== null && isThere(restoring, now)) return restorationMark(photograph, restoring);
  if (photograph.faces !== null) return { kind: "found", faces: photograph.faces.length };
  const { job } = finding;
  if (job?.status === "failed") return failure(job);
  if (job?.status === "cancelled") return { kind: "cancelled" };
  return { kind: "finding" };
}

/** Its outputs have not been deleted, as far as is known. */
export function isThere({ job, gone }: Known, now: number): boolean {
  return !gone && !(job?.expires_at && Date.parse(job.expires_at) <= now);
}

function restorationMark(photograph: Photograph, { job }: Known): Mark {
  if (job?.status === "completed") {
    if (isChanged(photograph)) return { kind: "changed" };
    const { faces, upscale_applied = 1 } = (job.result ?? {}) as Partial<RestoreReport>;
    const isUnchanged = faces != null && upscale_applied <= 1 && !faces.some(({ restored }) => restored);
    return { kind: isUnchanged ? "unchanged" : "restored" };
  }
  if (job?.status === "failed") return failure(job);
  if (job?.status === "cancelled") return { kind: "cancelled" };
  return { kind: "restoring", share: job?.status === "in_progress" ? job.progress : 0 };
}

function failure({ error }: Job): Mark {
  return { kind: "failed", message: error ? sentenceOf(error) : "", code: error?.code ?? "" };
}

/** What the gateway says is wrong, without the name of the field, which means nothing to a person. */
export function sentenceOf({ message, fields }: { message: string; fields?: readonly { message: string }[] }): string {
  const [field] = fields ?? [];
  if (!field || (fields ?? []).length > 1) return message;
  return `${field.message.charAt(0).toUpperCase()}${field.message.slice(1).replace(/\.$/, "")}.`;
}

/** Whether it may work if the same is tried again: the file is not what was wrong. */
export function mayWorkAgain(code: string | undefined): boolean {
  return code !== "invalid_request" && code !== "bad_image";
}

const ENDED: readonly Mark["kind"][] = ["restored", "changed", "unchanged", "failed"];

/**
 * How far what is being restored is, 0 to 1, of all that was asked for together with it. Null: nothing is to be done.
 * `together`: what was asked for by one click has the same.
 */
export function batchShare(
  all: readonly { mark: Mark; together: string | null }[],
): { share: number; done: number; of: number } | null {
  const isBusy = ({ kind }: Mark) => kind === "waiting" || kind === "restoring";
  const current = new Set(all.filter(({ mark }) => isBusy(mark)).map(({ together }) => together));
  if (current.size === 0) return null;
  const asked = all
    .filter(({ mark, together }) => isBusy(mark) || (together !== null && current.has(together) && ENDED.includes(mark.kind)))
    .map(({ mark }) => mark);
  const done = asked.filter((mark) => !isBusy(mark)).length;
  const begun = asked.reduce((sum, mark) => sum + (mark.kind === "restoring" ? mark.share : 0), 0);
  return { share: (done + begun) / asked.length, done, of: asked.length };
}
