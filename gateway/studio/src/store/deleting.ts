/**
 * Deletes entries with all that was made for them. Nothing else does: an entry that is removed before its jobs are
 * deleted leaves files on the gateway that nobody can reach any more.
 */
import { effect } from "@preact/signals";
import { deleteJob } from "../api/client";
import { Problem } from "../api/problem";
import type { Job } from "../api/types";
import { changeEntry, entries, type Entry, entryOf, removeEntry } from "./entries";
import { jobState, learn, markGone } from "./jobs";
import { forgetPictures } from "./pictures";

/** So many jobs of an entry are deleted at a time. */
const AT_A_TIME = 4;

/** All jobs of an entry; the one that began it, whose files the others are made from, last. */
export function jobsOf(entry: Entry): string[] {
  const { id, made = [] } = entry;
  const named =
    entry.kind === "photograph" ? [entry.restoration, entry.lookingAgain, ...Object.values(entry.strips ?? {})] : [];
  const others = new Set([...made, ...named].filter((job) => job != null && job !== id) as string[]);
  return [...others, id].filter((job) => job.startsWith("job_")); // not what has not been sent yet
}

/**
 * Take in a job that was made for an entry; `change`: what else the entry learns. If the entry has been deleted in the
 * meantime, so is the job. Return whether the entry is still there.
 */
export async function recordJob<E extends Entry>(
  entry: string,
  job: Job,
  change: (entry: E) => E = (same) => same,
): Promise<boolean> {
  learn(job);
  const isThere = await changeEntry<E>(entry, (before) => {
    const made = before.made ?? [];
    return { ...change(before), made: made.includes(job.id) ? made : [...made, job.id] };
  });
  if (!isThere) await deleteUnwanted(job.id);
  return isThere;
}

/** Delete a job that no entry names. If the gateway cannot be asked, it expires by itself. */
export async function deleteUnwanted(job: string): Promise<void> {
  try {
    await deleteJob(job);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
  }
  markGone(job);
}

/** Delete what the gateway has of an entry, then the entry. Raises `Problem`; then the entry stays. */
export async function deleteEntry({ id }: Pick<Entry, "id">): Promise<void> {
  for (;;) {
    const entry = entryOf(id);
    if (!entry) return;
    const left = jobsOf(entry).filter((job) => !jobState(job).peek().gone);
    if (left.length === 0) break; // a job that was made during the last round is deleted in the next
    for (let next = 0; next < left.length; next += AT_A_TIME) {
      await Promise.all(left.slice(next, next + AT_A_TIME).map((job) => deleteJob(job).then(() => markGone(job))));
    }
  }
  await removeEntry(id);
}

/** Delete entries one after another; stop at the first that cannot be deleted: raises `Problem`. */
export async function deleteEntries(chosen: readonly Pick<Entry, "id">[]): Promise<void> {
  for (const entry of chosen) await deleteEntry(entry);
}

/** From now on, what leaves the list is gone, whichever window deleted it. Return what ends it. */
export function noteDeleted(): () => void {
  let before = new Map<string, Entry>();
  return effect(() => {
    const now = new Map(entries.value.map((entry) => [entry.id, entry]));
    const jobs = [...before.values()].filter(({ id }) => !now.has(id)).flatMap(jobsOf);
    before = now;
    if (jobs.length === 0) return;
    queueMicrotask(() => {
      for (const job of jobs) {
        markGone(job);
        forgetPictures(job);
      }
    });
  });
}
