/** Follows the jobs of the photographs while the page is open, whichever tab is in view. */
import { effect } from "@preact/signals";
import type { DetectReport, Job } from "../api/types";
import { changeEntry, photographs, type Photograph } from "../store/entries";
import { isOver, jobState, watch } from "../store/jobs";
import { handedOver } from "../store/handover";
import { addPhotographs, keepOnlyFilesOf, resumeUploads } from "./adding";
import { sendWaiting } from "./queue";

/** Of those whose faces are being found, so many are asked for: they are carried out in this order. */
const MOST_FINDING = 6;

/** Begin; return what ends it. */
export function followPhotographs(): () => void {
  const watched = new Map<string, () => void>();
  const ends = [
    effect(() => {
      const wanted = new Set(jobsToFollow(photographs.value));
      for (const [id, stop] of watched) {
        if (wanted.has(id)) continue;
        watched.delete(id);
        stop();
      }
      for (const id of wanted) if (!watched.has(id)) watched.set(id, watch(id));
    }),
    effect(() => {
      for (const photograph of photographs.value) takeOver(photograph);
      keepOnlyFilesOf(photographs.value.filter(({ faces }) => faces === null));
      queueMicrotask(sendWaiting);
    }),
    effect(() => {
      const files = handedOver.value;
      if (files.length === 0) return;
      handedOver.value = [];
      addPhotographs(files);
    }),
  ];
  void resumeUploads();
  return () => {
    for (const end of ends) end();
    for (const stop of watched.values()) stop();
  };
}

/** The jobs that matter: the oldest whose faces are unknown, and all others, most of which have ended. */
export function jobsToFollow(all: readonly Photograph[]): string[] {
  const finding = all
    .filter(({ id, faces }) => faces === null && !isOver(id))
    .reverse()
    .slice(0, MOST_FINDING)
    .map(({ id }) => id);
  const others = all.flatMap((each) => [each.faces && each.id, each.restoration, each.lookingAgain]);
  return [...finding, ...others.filter((id) => id != null)];
}

/** Write what a job has found into the photograph's entry. */
function takeOver({ id, faces, lookingAgain }: Photograph): void {
  const found = jobState(id).value.job;
  if (faces === null && found?.status === "completed" && found.result) later(id, (entry) => withFaces(entry, found));
  if (!lookingAgain) return;
  const { job: again, gone } = jobState(lookingAgain).value;
  if (again?.status === "completed") later(id, (entry) => ({ ...withFaces(entry, again), lookingAgain: null, lookedThoroughly: true }));
  else if (gone) later(id, (entry) => ({ ...entry, lookingAgain: null }));
}

function withFaces(entry: Photograph, job: Job): Photograph {
  const report = job.result as DetectReport | null | undefined;
  if (!report) return entry;
  const { faces, width, height } = report;
  return { ...entry, faces, width, height };
}

/** Not while an effect runs that the change would run again. */
function later(id: string, change: (entry: Photograph) => Photograph): void {
  queueMicrotask(() => void changeEntry<Photograph>(id, change));
}
