/**
 * What is known of jobs: one signal for each, that follows the gateway while somebody looks.
 *
 * The job of the picture in view is followed by its events, with previews; others are asked for every few seconds. A
 * browser opens six connections to a gateway, for all its tabs together, so a tab follows at most two jobs by events,
 * and none while it is hidden.
 */
import { type ReadonlySignal, signal, type Signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { getJob, jobEvents } from "../api/client";
import { Problem } from "../api/problem";
import type { Job, Output } from "../api/types";

export interface JobState {
  job: Job | null;
  /** What is being drawn, as data URIs, one for each image. */
  previews: string[];
  /** The gateway knows the job no more: it has expired. */
  gone: boolean;
  /** The gateway does not answer; what is shown is what was known last. */
  offline: boolean;
  /** When `job` was received, on the clock of `performance.now`. */
  at: number;
}

const NOTHING: JobState = { job: null, previews: [], gone: false, offline: false, at: 0 };
const MOST_STREAMS = 2;
const POLL_MS = 1500;
const RECONNECT_MS = 1000;

interface Followed {
  state: Signal<JobState>;
  watchers: number;
  live: number;
  stop: AbortController | null;
}

const known = new Map<string, Followed>();
let streams = 0;

export function isFinal(job: Job): boolean {
  return job.status === "completed" || job.status === "failed" || job.status === "cancelled";
}

/** What is known of a job. Nothing is asked for unless somebody watches it. */
export function jobState(id: string): ReadonlySignal<JobState> {
  return entryOf(id).state;
}

/** Tell what an answer has said of a job. */
export function learn(job: Job): void {
  update(entryOf(job.id), { job, offline: false, gone: false });
}

/** Tell that a job's outputs are deleted: it has expired, or the person wanted it so. */
export function markGone(id: string): void {
  update(entryOf(id), { gone: true, offline: false, previews: [] });
}

/** Ask once for a job, whatever is known of it: what has ended may have expired since. */
export async function ask(id: string): Promise<void> {
  try {
    learn(await getJob(id));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 404 || error.status === 410) markGone(id);
  }
}

/** Follow a job until the returned function is called. `live`: with previews. */
export function watch(id: string, live = false): () => void {
  const followed = entryOf(id);
  followed.watchers += 1;
  followed.live += live ? 1 : 0;
  start(id, followed);
  let watching = true;
  return () => {
    if (!watching) return;
    watching = false;
    followed.watchers -= 1;
    followed.live -= live ? 1 : 0;
    if (followed.watchers === 0) {
      followed.stop?.abort();
      followed.stop = null;
    }
  };
}

/** A job's state, followed while the component is there. */
export function useJob(id: string | null, live = false): JobState {
  useEffect(() => (id === null ? undefined : watch(id, live)), [id, live]);
  return id === null ? NOTHING : jobState(id).value;
}

function entryOf(id: string): Followed {
  let followed = known.get(id);
  if (!followed) {
    followed = { state: signal(NOTHING), watchers: 0, live: 0, stop: null };
    known.set(id, followed);
  }
  return followed;
}

function update(followed: Followed, change: Partial<JobState>): void {
  const at = change.job ? performance.now() : followed.state.value.at;
  followed.state.value = { ...followed.state.value, ...change, at };
}

function isOver({ state }: Followed): boolean {
  const { job, gone } = state.value;
  return gone || (job !== null && isFinal(job));
}

function start(id: string, followed: Followed): void {
  if (followed.stop || isOver(followed)) return;
  const stop = new AbortController();
  followed.stop = stop;
  void follow(id, followed, stop.signal).finally(() => {
    if (followed.stop === stop) followed.stop = null;
  });
}

async function follow(id: string, followed: Followed, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && !isOver(followed)) {
    await visible(signal);
    try {
      if (followed.live > 0 && streams < MOST_STREAMS) await stream(id, followed, signal);
      else await poll(id, followed, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && (error.status === 404 || error.status === 410)) {
        update(followed, { gone: true, offline: false, previews: [] });
        return;
      }
      update(followed, { offline: true });
      await pause(RECONNECT_MS, signal);
    }
  }
}

async function poll(id: string, followed: Followed, signal: AbortSignal): Promise<void> {
  update(followed, { job: await getJob(id, signal), offline: false });
  if (!isOver(followed)) await pause(POLL_MS, signal);
}

async function stream(id: string, followed: Followed, signal: AbortSignal): Promise<void> {
  streams += 1;
  const untilHidden = new AbortController();
  const onChange = () => document.hidden && untilHidden.abort();
  document.addEventListener("visibilitychange", onChange);
  try {
    for await (const event of jobEvents(id, null, AbortSignal.any([signal, untilHidden.signal]))) {
      update(followed, { offline: false });
      if (event.name === "preview") {
        update(followed, { previews: (event.data as { images: string[] }).images });
      } else if (event.name === "snapshot" || event.name === "status") {
        update(followed, { job: event.data as Job });
      } else if (followed.state.value.job) {
        update(followed, { job: changed(followed.state.value.job, event.name, event.data) });
      }
    }
  } catch (error) {
    if (!untilHidden.signal.aborted) throw error;
  } finally {
    streams -= 1;
    document.removeEventListener("visibilitychange", onChange);
  }
  if (!isOver(followed) && !untilHidden.signal.aborted) await pause(RECONNECT_MS, signal); // the gateway drains
}

function changed(job: Job, event: "progress" | "output", data: unknown): Job {
  if (event === "progress") return { ...job, ...(data as Partial<Job>) };
  return { ...job, outputs: [...(job.outputs ?? []), data as Output] };
}

function visible(signal: AbortSignal): Promise<void> {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", done);
      resolve();
    };
    document.addEventListener("visibilitychange", done);
    signal.addEventListener("abort", done);
  });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
