/**
 * Photographs on their way to the gateway. Each is uploaded once, with the job that finds its faces and keeps the
 * file; that job is the photograph. Two are uploaded at a time, the others wait here.
 */
import { signal } from "@preact/signals";
import { randomKey, submit } from "../api/client";
import { Problem } from "../api/problem";
import { deleteUnwanted } from "../store/deleting";
import { putEntry } from "../store/entries";
import { thumbnailOf } from "../store/files";
import { learn } from "../store/jobs";
import { goTo, route } from "../store/route";
import { defaultSettings } from "./edits";

export interface Arrival {
  /** In this page only. */
  id: string;
  batch: string;
  file: File;
  /** When it was added: the order of the contact sheet. */
  createdAt: number;
  state: "waiting" | "uploading" | "failed";
  problem: Problem | null;
  /** The first of those that were added together: it is opened. */
  isFirst: boolean;
}

const MOST_UPLOADS = 2;
const RETRY_MS = 3000;

/** What is not with the gateway yet, in the order in which it was added. */
export const arrivals = signal<readonly Arrival[]>([]);

export function addPhotographs(files: readonly File[]): void {
  const batch = randomKey();
  const now = Date.now();
  const added = files.map((file, index): Arrival => ({
    id: randomKey(),
    batch,
    file,
    createdAt: now + index / 1000,
    state: "waiting",
    problem: null,
    isFirst: index === 0,
  }));
  arrivals.value = [...arrivals.value, ...added];
  uploadNext();
}

/** Try again to upload a file that was refused. */
export function retryArrival(id: string): void {
  change(id, { state: "waiting", problem: null });
  uploadNext();
}

export function removeArrival(id: string): void {
  arrivals.value = arrivals.value.filter((arrival) => arrival.id !== id);
}

function change(id: string, changed: Partial<Arrival>): void {
  arrivals.value = arrivals.value.map((arrival) => (arrival.id === id ? { ...arrival, ...changed } : arrival));
}

function uploadNext(): void {
  const uploading = arrivals.value.filter(({ state }) => state === "uploading").length;
  const next = arrivals.value.filter(({ state }) => state === "waiting").slice(0, Math.max(0, MOST_UPLOADS - uploading));
  for (const arrival of next) {
    change(arrival.id, { state: "uploading" });
    void upload(arrival).finally(uploadNext);
  }
}

async function upload(arrival: Arrival): Promise<void> {
  const { id, file } = arrival;
  try {
    const submission = { type: "detect", input: {}, files: { image: file }, keepFiles: true, key: id } as const;
    const [job, thumbnail] = await Promise.all([submit(submission), thumbnailOf(file)]);
    learn(job);
    if (!arrivals.value.some((each) => each.id === id)) {
      await deleteUnwanted(job.id); // removed in the meantime
      return;
    }
    await putEntry({
      kind: "photograph",
      id: job.id,
      createdAt: arrival.createdAt,
      expiresAt: null,
      thumbnail,
      fileName: file.name || "photograph",
      batch: arrival.batch,
      width: 0,
      height: 0,
      faces: null,
      settings: defaultSettings,
      choices: {},
      restoration: null,
    });
    removeArrival(id);
    if (arrival.isFirst && route.value.tab === "restore") goTo("restore", job.id, { replace: true });
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(0, "offline", String(error));
    if (problem.status === 429) {
      const seconds = problem.retryAfterSeconds;
      await new Promise((resolve) => setTimeout(resolve, seconds === null ? RETRY_MS : 1000 * seconds));
      change(id, { state: "waiting" });
    } else {
      change(id, { state: "failed", problem });
    }
  }
}
