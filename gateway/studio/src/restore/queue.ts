/**
 * Restorations that have been asked for. At most four of the tab are with the gateway; the rest wait in the entries,
 * so that a reload, or another tab, goes on with them. Whichever tab sends one: its key makes it one job.
 */
import { cancelJob, randomKey, submit } from "../api/client";
import { Problem } from "../api/problem";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { deleteEntry, recordJob } from "../store/deleting";
import { changeEntry, entryOf, photographs, type Photograph, storedEntry } from "../store/entries";
import { isFinal, jobState, learn } from "../store/jobs";
import { describeProblem } from "../text/words";
import { isWorthIt, restoreInput } from "./edits";
import { holdUp, isHoldUp, problemFrom } from "./hold-up";

const MOST_IN_FLIGHT = 4;

/** The gateway takes no restorations now, or does not answer. */
export const restorationHoldUp = holdUp(() => sendWaiting());

const sending = new Set<string>();

/** Ask for the restoration of photographs, as they are set now. */
export async function restore(chosen: readonly Photograph[]): Promise<void> {
  const together = randomKey();
  for (const { id } of chosen) {
    const entry = photographOf(id);
    if (!entry || !isWorthIt(entry)) continue;
    const wanted = { key: randomKey(), input: restoreInput(entry), together };
    await changeEntry<Photograph>(id, (each) => (each.wanted ? each : { ...each, wanted, refusal: null }));
  }
}

function photographOf(id: string): Photograph | null {
  const entry = entryOf(id);
  return entry?.kind === "photograph" ? entry : null;
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
  }
  return true;
}

/** Send what waits, as far as there is room. Called whenever an entry or a job has changed. */
export function sendWaiting(): void {
  const waiting = photographs.value.filter(({ id, wanted }) => wanted && !sending.has(id)).reverse();
  const room = MOST_IN_FLIGHT - sending.size - photographs.value.filter(isInFlight).length;
  if (restorationHoldUp.isHeld()) return;
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

async function send(shown: Photograph): Promise<void> {
  const { id } = shown;
  // As the database has it: a click in another tab may have come first, and then its key counts.
  const stored = ((await storedEntry(id)) ?? shown) as Photograph;
  const { wanted } = stored;
  if (!wanted) {
    const { restoration } = stored; // another tab has sent it, or taken it back
    await changeEntry<Photograph>(id, (each) =>
      each.wanted?.key === shown.wanted?.key ? { ...each, wanted: null, restoration } : each,
    );
    return;
  }
  try {
    const job = await submit({ type: "restore", input: wanted.input, key: wanted.key });
    restorationHoldUp.end();
    const isStillWanted = photographOf(id)?.wanted?.key === wanted.key;
    const isThere = await recordJob<Photograph>(id, job, (entry) => {
      if (entry.wanted?.key !== wanted.key) return entry;
      const { input, together = null } = wanted;
      return { ...entry, wanted: null, restoration: job.id, asked: input, together, refusal: null };
    });
    if (isThere && !isStillWanted && photographOf(id)?.restoration !== job.id) await cancelJob(job.id);
  } catch (error) {
    const problem = problemFrom(error);
    if (isHoldUp(problem)) {
      restorationHoldUp.begin(problem);
      return;
    }
    const { status, code, message, fields } = problem;
    const refusal = { status, code, message, fields };
    await changeEntry<Photograph>(id, (each) =>
      each.wanted?.key === wanted.key ? { ...each, wanted: null, refusal } : each,
    );
  }
}
