/** What a card says of what became of an entry; decided here, put into words by the card. */
import type { Job, RestoreReport } from "../api/types";
import type { Entry } from "../store/entries";
import { isFinal, type JobState } from "../store/jobs";

export type CardState =
  | { kind: "unknown" }
  | { kind: "active"; job: Job }
  | { kind: "done"; restored: number | null; faces: number | null; pictures: number }
  | { kind: "found"; faces: number }
  | { kind: "failed"; message: string }
  | { kind: "canceled" }
  | { kind: "expired" };

/** By the state of the entry's main job (`mainJobOf`). */
export function cardStateOf(entry: Entry, { job, gone }: Pick<JobState, "job" | "gone">): CardState {
  if (gone) return { kind: "expired" };
  if (!job) return { kind: "unknown" };
  if (!isFinal(job)) return { kind: "active", job };
  if (job.status === "failed") return { kind: "failed", message: job.error?.message ?? "" };
  if (job.status === "cancelled") return { kind: "canceled" };
  if (entry.kind === "photograph") {
    if (!entry.restoration) return { kind: "found", faces: entry.faces?.length ?? facesOf(job)?.length ?? 0 };
    const faces = facesOf(job);
    const restored = faces ? faces.filter((face) => face.restored).length : null;
    return { kind: "done", restored, faces: faces?.length ?? null, pictures: 1 };
  }
  return { kind: "done", restored: null, faces: null, pictures: entry.input.num_images ?? 1 };
}

function facesOf(job: Job): RestoreReport["faces"] | null {
  const faces = (job.result as Partial<RestoreReport> | null | undefined)?.faces;
  return Array.isArray(faces) ? faces : null;
}

/** Which jobs to follow: of the entries in view, those that have not ended, at most `most`. */
export function jobsToFollow(
  inView: readonly string[],
  isOver: (job: string) => boolean,
  most: number,
): string[] {
  return inView.filter((id) => !isOver(id)).slice(0, most);
}

/** Entries of a day, newest first. */
export interface Day {
  /** Its first moment, here. */
  start: number;
  entries: Entry[];
}

/** Group entries, which come newest first, by the day on which they were asked for. */
export function byDay(entries: readonly Entry[]): Day[] {
  const days: Day[] = [];
  for (const entry of entries) {
    const start = new Date(entry.createdAt).setHours(0, 0, 0, 0);
    const last = days.at(-1);
    if (last?.start === start) last.entries.push(entry);
    else days.push({ start, entries: [entry] });
  }
  return days;
}

/** How many days ago a day was: 0 today, 1 yesterday, whatever the clocks did in between. */
export function daysAgo(start: number, now: number): number {
  return Math.round((new Date(now).setHours(0, 0, 0, 0) - start) / 86_400_000);
}
