/**
 * What entries learn from their jobs, wherever these are shown: a small picture if they have none, and when the gateway
 * deletes what was made. In this one place, so that no tab has to think of it.
 */
import { effect, signal } from "@preact/signals";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";
import type { Job } from "../api/types";
import { changeEntry, entries, type Entry, removeEntry } from "./entries";
import { thumbnailOf } from "./files";
import { jobState } from "./jobs";

const WEEK_MS = 7 * 24 * 3600 * 1000;

/** The job whose outputs are what the entry shows: the restoration's if there is one. */
export function mainJobOf(entry: Entry): string {
  return entry.kind === "photograph" ? (entry.restoration ?? entry.id) : entry.id;
}

/** Whether nothing is left of an entry but its small picture, and that for a week. */
export function isStale(entry: Entry, gone: boolean, now: number): boolean {
  const isDeleted = gone || (entry.expiresAt !== null && entry.expiresAt < now);
  return isDeleted && (entry.expiresAt ?? entry.createdAt) < now - WEEK_MS;
}

/** When a job's outputs are deleted; null while that is not known. */
export function expiryOf(job: Job): number | null {
  const at = Date.parse(job.expires_at ?? "");
  return Number.isNaN(at) ? null : at;
}

/** What could not be fetched is tried again after so long, twice as long each time, and not for ever. */
const RETRY_MS = 5000;
const MOST_TRIES = 6;

/** From now on. */
export function keepEntries(): void {
  const done = new Set<string>(); // what was looked at once, or waits to be: by entry and job
  const tries = new Map<string, number>();
  const retries = signal(0); // there is something to look at again
  const tryAgain = (key: string) => {
    const count = (tries.get(key) ?? 0) + 1;
    tries.set(key, count);
    if (count >= MOST_TRIES) return;
    setTimeout(() => {
      done.delete(key);
      retries.value += 1;
    }, RETRY_MS * 2 ** (count - 1));
  };
  effect(() => {
    void retries.value;
    for (const entry of entries.value) {
      const id = mainJobOf(entry);
      const { job, gone } = jobState(id).value;
      const key = `${entry.id} ${id}`;
      if (done.has(key)) continue;
      if (isStale(entry, gone, Date.now())) {
        done.add(key);
        queueMicrotask(() => void removeEntry(entry.id)); // not within the effect that reads entries
      } else if (job?.status === "completed") {
        done.add(key);
        queueMicrotask(() => void keep(entry, job).then((kept) => kept || tryAgain(key)));
      }
    }
  });
}

/** Whether all is kept that there is; otherwise it is tried again. */
async function keep(entry: Entry, job: Job): Promise<boolean> {
  const expiresAt = expiryOf(job);
  const needsThumbnail = !entry.thumbnail;
  const thumbnail = needsThumbnail ? await pictureOf(job) : null;
  const isNew = thumbnail !== null || (expiresAt !== null && expiresAt !== entry.expiresAt);
  if (!isNew) return !needsThumbnail;
  await changeEntry(entry.id, (kept) => ({
    ...kept,
    expiresAt: expiresAt ?? kept.expiresAt,
    thumbnail: kept.thumbnail ?? thumbnail,
  }));
  return !needsThumbnail || thumbnail !== null;
}

async function pictureOf(job: Job): Promise<Blob | null> {
  try {
    return await thumbnailOf(await getOutput(job.id, job.type === "detect" ? "input_image" : "image"));
  } catch (error) {
    if (error instanceof Problem) return null; // there is none without it
    throw error;
  }
}
