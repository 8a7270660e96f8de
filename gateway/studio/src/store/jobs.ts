/**
 * What is known of jobs: one signal for each, that follows the gateway while somebody looks.
 *
 * The job of the picture in view is followed by its events, with previews; others are asked for every few seconds. A
 * browser opens six connections to a gateway, for all its tabs together, so a tab follows at most two jobs by events,
 * and none while it is hidden.
 */
import { type ReadonlySignal, signal, type Signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { getJob, type JobEvent, jobEvents } from "../api/client";
import { Problem } from "../api/problem";
import type { Job, Output } from "../api/types";
import { pause, visible } from "./waiting";

export interface JobState {
  job: Job | null;
  /** What is being drawn, as data URIs, one for each image. */
  previews: string[];
  /** The gateway knows the job no more: it has expired. */
  gone: boolean;
  /** The gateway does not answer; what is shown is what was known last. */
  offline: boolean;
  /** It answers, but not with the job: a key is needed, say, or it has been asked too often. */
  problem: Problem | null;
  /** When `job` was received, on the clock of `performance.now`. */
  at: number;
}

const NOTHING: JobState = { job: null, previews: [], gone: false, offline: false, problem: null, at: 0 };
const MOST_STREAMS = 2;
const MOST_KNOWN = 400;
const POLL_MS = 1500;
const RECONNECT_MS = 1000;
/** So long a job is asked for whose events could not be had, before they are tried again. */
const WITHOUT_STREAM_MS = 30_000;

interface Followed {
  state: Signal<JobState>;
  /** Something depends on the state. */
  isRead: boolean;
  watchers: number;
  live: number;
  stop: AbortController | null;
}

/** In the order of their last use; what nobody looks at is forgotten in the end. */
const known = new Map<string, Followed>();
let streams = 0;

export function isFinal(job: Job): boolean {
  return job.status === "completed" || job.status === "failed" || job.status === "cancelled";
}

/** Nothing more happens to a job: it has ended, or is gone. */
export function isOver(id: string): boolean {
  return hasEnded(jobState(id).value);
}

/** What is known of a job. Nothing is asked for unless somebody watches it. */
export function jobState(id: string): ReadonlySignal<JobState> {
  return entryOf(id).state;
}

/** Tell what an answer has said of a job. */
export function learn(job: Job): void {
  update(entryOf(job.id), { job, ...ANSWERED, gone: false });
}

/** Tell that a job's outputs are deleted: it has expired, or the person wanted it so. */
export function markGone(id: string): void {
  update(entryOf(id), { gone: true, ...ANSWERED, previews: [] });
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

const ANSWERED = { offline: false, problem: null } as const;

function entryOf(id: string): Followed {
  const followed = known.get(id) ?? begun();
  known.delete(id);
  known.set(id, followed);
  if (known.size > MOST_KNOWN) {
    for (const [other, { isRead, watchers }] of known) {
      if (known.size <= MOST_KNOWN) break;
      if (!isRead && watchers === 0 && other !== id) known.delete(other);
    }
  }
  return followed;
}

function begun(): Followed {
  const followed: Followed = {
    state: signal(NOTHING, {
      watched: () => (followed.isRead = true),
      unwatched: () => (followed.isRead = false),
    }),
    isRead: false,
    watchers: 0,
    live: 0,
    stop: null,
  };
  return followed;
}

function update(followed: Followed, change: Partial<JobState>): void {
  const before = followed.state.peek();
  const at = change.job ? performance.now() : before.at;
  followed.state.value = { ...before, ...change, at };
}

function hasEnded({ job, gone }: JobState): boolean {
  return gone || (job !== null && isFinal(job));
}

function start(id: string, followed: Followed): void {
  if (followed.stop || hasEnded(followed.state.peek())) return;
  const stop = new AbortController();
  followed.stop = stop;
  void follow(id, followed, stop.signal).finally(() => {
    if (followed.stop === stop) followed.stop = null;
  });
}

async function follow(id: string, followed: Followed, signal: AbortSignal): Promise<void> {
  let streamsFrom = 0; // on the clock of `performance.now`
  while (!signal.aborted && !hasEnded(followed.state.peek())) {
    await visible(signal);
    if (signal.aborted) return;
    try {
      if (followed.live > 0 && streams < MOST_STREAMS && performance.now() >= streamsFrom) {
        const problem = await stream(id, followed, signal);
        if (problem === null) continue;
        streamsFrom = performance.now() + (problem.isOffline ? 0 : WITHOUT_STREAM_MS);
      }
      await poll(id, followed, signal); // also to find out what a failure of the events means
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      if (error.status === 404 || error.status === 410) {
        update(followed, { gone: true, ...ANSWERED, previews: [] });
        return;
      }
      update(followed, error.isOffline ? { offline: true, problem: null } : { offline: false, problem: error });
      const seconds = Math.min(error.retryAfterSeconds ?? (error.isOffline ? 1 : 3), 60);
      await pause(1000 * Math.max(seconds, 1), signal);
    }
  }
}

async function poll(id: string, followed: Followed, signal: AbortSignal): Promise<void> {
  update(followed, { job: await getJob(id, signal), ...ANSWERED });
  if (!hasEnded(followed.state.peek())) await pause(POLL_MS, signal);
}

/** Follow a job by its events until it has ended or the page is hidden. Return why there are no more, if that failed. */
async function stream(id: string, followed: Followed, signal: AbortSignal): Promise<Problem | null> {
  const end = new AbortController();
  const onAbort = () => end.abort();
  const onHidden = () => document.hidden && end.abort();
  signal.addEventListener("abort", onAbort);
  document.addEventListener("visibilitychange", onHidden);
  streams += 1;
  try {
    for await (const event of jobEvents(id, end.signal)) take(event, followed);
  } catch (error) {
    if (end.signal.aborted) return null;
    if (error instanceof Problem) return error;
    throw error;
  } finally {
    streams -= 1;
    signal.removeEventListener("abort", onAbort);
    document.removeEventListener("visibilitychange", onHidden);
  }
  if (!hasEnded(followed.state.peek())) await pause(RECONNECT_MS, signal); // the gateway drains
  return null;
}

function take({ name, data }: JobEvent, followed: Followed): void {
  const { job } = followed.state.peek();
  if (name === "preview") update(followed, { previews: (data as { images: string[] }).images, ...ANSWERED });
  else if (name === "snapshot" || name === "status") update(followed, { job: data as Job, ...ANSWERED });
  else if (job) update(followed, { job: changed(job, name, data), ...ANSWERED });
}

function changed(job: Job, event: "progress" | "output", data: unknown): Job {
  if (event === "progress") return { ...job, ...(data as Partial<Job>) };
  return { ...job, outputs: [...(job.outputs ?? []), data as Output] };
}
