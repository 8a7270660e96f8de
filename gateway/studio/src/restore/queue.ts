/**
 * Restorations that have been asked for. At most four of the tab are with the gateway; the rest wait in the entries,
 * so that a reload, or another tab, goes on with them. Whichever tab sends one: its key makes it one job.
 */
import { signal } from "@preact/signals";
import { cancelJob, randomKey, submit } from "../api/client";
import { Problem } from "../api/problem";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { deleteEntry, recordJob } from "../store/deleting";
import { changeEntry, entryOf, photographs, type Photograph } from "../store/entries";
import { has, health } from "../store/health";
import { isFinal, jobState, learn } from "../store/jobs";
import { describeProblem } from "../text/words";
import { isWorthIt, type Loaded, restoreInput } from "./edits";

const MOST_IN_FLIGHT = 4;
const RETRY_MS = 3000;

/** Why restorations could not be asked for, by photograph. */
export const refusals = signal<ReadonlyMap<string, Problem>>(new Map());
/** The gateway takes no more now, or does not answer: what waits is sent later. */
export const holdUp = signal<Problem | null>(null);

const sending = new Set<string>();
let resumesAt = 0;

export function loadedNetworks(): Loaded {
  return { identity: health.value?.identity_available ?? false, parser: health.value !== null && has("parser") };
}

/** Ask for the restoration of photographs, as they are set now. */
export async function restore(chosen: readonly Photograph[]): Promise<void> {
  const loaded = loadedNetworks();
  for (const { id } of chosen) {
    forgetRefusal(id);
    await changeEntry<Photograph>(id, (entry) =>
      isWorthIt(entry) && !entry.wanted
        ? { ...entry, wanted: { key: randomKey(), input: restoreInput(entry, loaded) } }
        : entry,
    );
  }
}

/** Take back what waits, and cancel what is being done. */
export async function cancelRestorations(chosen: readonly Photograph[]): Promise<void> {
  await Promise.all(
    chosen.map(async ({ id, restoration }) => {
      await changeEntry<Photograph>(id, (entry) => ({ ...entry, wanted: null }));
      const job = restoration === null ? null : jobState(restoration).value.job;
      if (job === null || isFinal(job)) return;
      try {
        learn(await cancelJob(job.id));
      } catch (error) {
        if (error instanceof Problem) announce(describeProblem(error), "error");
      }
    }),
  );
}

/**
 * Delete photographs at the gateway, with all that was made of them, and then here. Return whether that worked; what
 * cannot be deleted stays, and the person is told why.
 */
export async function removePhotographs(chosen: readonly Photograph[]): Promise<boolean> {
  for (const { id, fileName } of chosen) {
    try {
      await deleteEntry({ id });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      announce(t.value.restore.sheet.notRemoved(fileName, describeProblem(error)), "error");
      return false;
    }
    forgetRefusal(id);
  }
  return true;
}

/** Send what waits, as far as there is room. Called whenever an entry or a job has changed. */
export function sendWaiting(): void {
  const waiting = photographs.value.filter(({ id, wanted }) => wanted && !sending.has(id)).reverse();
  const room = MOST_IN_FLIGHT - sending.size - photographs.value.filter(isInFlight).length;
  if (performance.now() < resumesAt) return;
  for (const photograph of waiting.slice(0, Math.max(0, room))) {
    sending.add(photograph.id);
    void send(photograph).finally(() => {
      sending.delete(photograph.id);
      sendWaiting();
    });
  }
}

function isInFlight({ id, restoration, wanted }: Photograph): boolean {
  if (restoration === null || wanted || sending.has(id)) return false;
  const { job, gone } = jobState(restoration).value;
  return !gone && (job === null || !isFinal(job));
}

async function send({ id, wanted }: Photograph): Promise<void> {
  if (!wanted) return;
  try {
    const job = await submit({ type: "restore", input: wanted.input, key: wanted.key });
    holdUp.value = null;
    const isStillWanted = (entryOf(id) as Photograph | null)?.wanted?.key === wanted.key;
    const isThere = await recordJob<Photograph>(id, job, (entry) =>
      entry.wanted?.key === wanted.key ? { ...entry, wanted: null, restoration: job.id } : entry,
    );
    if (isThere && !isStillWanted && (entryOf(id) as Photograph | null)?.restoration !== job.id) await cancelJob(job.id);
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(0, "offline", String(error));
    if (problem.isTemporary || problem.status === 401) {
      const ms = problem.retryAfterSeconds === null ? RETRY_MS : 1000 * problem.retryAfterSeconds;
      holdUp.value = problem;
      resumesAt = performance.now() + ms;
      setTimeout(sendWaiting, ms + 10);
      return;
    }
    refusals.value = new Map(refusals.value).set(id, problem);
    await changeEntry<Photograph>(id, (entry) => ({ ...entry, wanted: null }));
  }
}

function forgetRefusal(id: string): void {
  if (!refusals.value.has(id)) return;
  const rest = new Map(refusals.value);
  rest.delete(id);
  refusals.value = rest;
}
