/**
 * Photographs on their way to the gateway. Each is uploaded once, with the job that finds its faces and keeps the
 * file; that job is the photograph. Two are uploaded at a time, the others wait here. Their files are kept in the
 * browser until the gateway has them, so that a reload goes on.
 */
import { signal } from "@preact/signals";
import { randomKey, submit } from "../api/client";
import type { Problem } from "../api/problem";
import { deleteUnwanted } from "../store/deleting";
import { entryOf, type Photograph, putEntry, removeEntry, type Upload } from "../store/entries";
import { thumbnailOf } from "../store/files";
import { learn } from "../store/jobs";
import { goTo, route } from "../store/route";
import { forgetUpload, keepUploads, orphanedUploads } from "../store/uploads";
import { defaultSettings } from "./edits";
import { holdUp, isHoldUp, problemFrom } from "./hold-up";
import { kindOfFile, type Unusable } from "./kind-of-file";

export interface Arrival extends Upload {
  state: "waiting" | "uploading" | "failed";
  /** Why it failed: what the gateway said, or what was seen before it was asked. */
  problem: Problem | null;
  unusable: Unusable | null;
  /** The browser has the file, so that a reload loses nothing. */
  isKept: boolean;
}

const MOST_UPLOADS = 2;

/** What is not with the gateway yet, in the order in which it was added. */
export const arrivals = signal<readonly Arrival[]>([]);
/** The gateway has no jobs: no photograph can be restored here. */
export const hasNoJobs = signal(false);
/** The gateway takes no photographs now, or does not answer. */
export const uploadHoldUp = holdUp(() => uploadNext());

/** Files of photographs whose faces have not been found, by the job: what failed can be tried again. */
const files = new Map<string, Blob>();

export function addPhotographs(added: readonly File[]): void {
  const batch = randomKey();
  const now = Date.now();
  const uploads = added.map((file, index): Upload => ({
    id: randomKey(),
    batch,
    file,
    name: file.name || "photograph",
    createdAt: now + index / 1000,
    isFirst: index === 0, // it is opened
  }));
  arriveNew(uploads);
}

/** What no page has kept yet. */
function arriveNew(uploads: readonly Upload[]): void {
  arrive(uploads, false);
  keepUploads(uploads).then(
    () => {
      const ids = new Set(uploads.map(({ id }) => id));
      arrivals.value = arrivals.value.map((each) => (ids.has(each.id) ? { ...each, isKept: true } : each));
      const there = new Set(arrivals.value.map(({ id }) => id));
      for (const { id } of uploads) if (!there.has(id)) void forgetUpload(id); // sent or removed meanwhile
    },
    () => undefined, // then leaving the page asks
  );
}

/** Go on with what an earlier page has left; ask before what is not kept is lost with this one. */
export async function resumeUploads(): Promise<void> {
  addEventListener("beforeunload", (event) => {
    if (arrivals.value.some(({ state, isKept }) => state !== "failed" && !isKept)) event.preventDefault();
  });
  arrive(await orphanedUploads(() => arrivals.value.map(({ id }) => id)), true);
}

function arrive(uploads: readonly Upload[], isKept: boolean): void {
  if (uploads.length === 0) return;
  const added = uploads.map((each): Arrival => ({ ...each, state: "waiting", problem: null, unusable: null, isKept }));
  arrivals.value = [...arrivals.value, ...added];
  uploadNext();
}

/** Whether the same file may be taken if it is sent again. */
export function canRetry({ problem }: Arrival): boolean {
  return problem !== null && (problem.isTemporary || problem.status >= 500);
}

/** Try again to upload files that were refused. */
export function retryArrivals(refused: readonly Arrival[]): void {
  for (const { id } of refused) change(id, { state: "waiting", problem: null, unusable: null });
  uploadNext();
}

export function removeArrivals(removed: readonly Arrival[]): void {
  const ids = new Set(removed.map(({ id }) => id));
  arrivals.value = arrivals.value.filter(({ id }) => !ids.has(id));
  for (const id of ids) void forgetUpload(id);
}

/** Whether the file of a photograph is still at hand. */
export function canFindAgain(id: string): boolean {
  return files.has(id);
}

/** Send a photograph once more, in its place: its faces could not be looked for. */
export async function findAgain({ id, batch, createdAt, fileName }: Photograph): Promise<void> {
  const file = files.get(id);
  if (!file) return;
  files.delete(id);
  await removeEntry(id);
  arriveNew([{ id: randomKey(), batch, createdAt, file, name: fileName, isFirst: route.value.id === id }]);
  await deleteUnwanted(id);
}

/** Only the files of these photographs are still needed: of others the faces are known, or they were removed. */
export function keepOnlyFilesOf(needed: readonly Photograph[]): void {
  const ids = new Set(needed.map(({ id }) => id));
  for (const id of files.keys()) if (!ids.has(id)) files.delete(id);
}

function change(id: string, changed: Partial<Arrival>): void {
  arrivals.value = arrivals.value.map((arrival) => (arrival.id === id ? { ...arrival, ...changed } : arrival));
}

function uploadNext(): void {
  if (uploadHoldUp.isHeld()) return;
  const uploading = arrivals.value.filter(({ state }) => state === "uploading").length;
  const next = arrivals.value.filter(({ state }) => state === "waiting").slice(0, Math.max(0, MOST_UPLOADS - uploading));
  for (const arrival of next) {
    change(arrival.id, { state: "uploading" });
    void upload(arrival).finally(uploadNext);
  }
}

async function upload(arrival: Arrival): Promise<void> {
  const { id, file, name } = arrival;
  const kind = await kindOfFile(file);
  if ("unusable" in kind) return change(id, { state: "failed", unusable: kind.unusable });
  try {
    const image = new File([file], name, { type: kind.mediaType });
    const submission = { type: "detect", input: {}, files: { image }, keepFiles: true, key: id } as const;
    const [job, thumbnail] = await Promise.all([submit(submission), thumbnailOf(file)]);
    uploadHoldUp.end();
    if (!arrivals.value.some((each) => each.id === id)) {
      await deleteUnwanted(job.id); // removed in the meantime
      return;
    }
    learn(job);
    files.set(job.id, file);
    if (!entryOf(job.id)) await putEntry(entryFor(arrival, job.id, thumbnail, kind.mediaType));
    arrivals.value = arrivals.value.filter((each) => each.id !== id);
    void forgetUpload(id);
    if (arrival.isFirst && route.value.tab === "restore") goTo("restore", job.id, { replace: true });
  } catch (error) {
    const problem = problemFrom(error);
    if (isHoldUp(problem)) {
      change(id, { state: "waiting" });
      uploadHoldUp.begin(problem);
    } else if (problem.status === 501) {
      hasNoJobs.value = true;
      removeArrivals(arrivals.value);
    } else {
      change(id, { state: "failed", problem });
      void forgetUpload(id); // what is refused is told once
    }
  }
}

function entryFor(arrival: Arrival, id: string, thumbnail: Blob | null, mediaType: string): Photograph {
  return {
    kind: "photograph",
    id,
    createdAt: arrival.createdAt,
    expiresAt: null,
    thumbnail,
    fileName: arrival.name,
    batch: arrival.batch,
    mediaType,
    width: 0,
    height: 0,
    faces: null,
    settings: defaultSettings,
    choices: {},
    restoration: null,
  };
}
