/**
 * The one module that talks to the gateway. All of its functions raise `Problem`.
 *
 * Addresses are relative to the page's `<base>`, so that the page works below a path. Files are fetched rather than
 * named in `src`, since an `<img>` cannot send the API key.
 */
import { createParser } from "eventsource-parser";
import { apiKey, keyIsMissing } from "../store/key";
import { Problem, problemOf } from "./problem";
import type { About, CompareInput, GenerateInput, Health, Inspection, Job, JobType, RestoreInput } from "./types";

interface Options {
  signal?: AbortSignal | undefined;
  method?: string;
  headers?: Record<string, string>;
  body?: BodyInit;
}

async function request(path: string, { headers, ...options }: Options = {}): Promise<Response> {
  const key = apiKey.value;
  const authorization: Record<string, string> = key ? { Authorization: `Bearer ${key}` } : {};
  // Made first: what is wrong with them is no matter of the network, though `fetch` raises a TypeError for either.
  const url = new URL(path, document.baseURI);
  const sent = new Headers({ Accept: "application/json", ...authorization, ...headers });
  let response: Response;
  try {
    response = await fetch(url, { ...options, headers: sent });
  } catch (error) {
    if (options.signal?.aborted || (error instanceof DOMException && error.name === "AbortError")) throw error;
    throw new Problem(0, "offline", "");
  }
  if (response.status === 401) keyIsMissing.value = true;
  else if (key && response.ok && path.startsWith("v1/")) keyIsMissing.value = false; // others want no key
  return response;
}

async function json<T>(path: string, options: Options = {}): Promise<T> {
  const response = await request(path, options);
  if (!response.ok) throw await problemOf(response);
  try {
    return (await response.json()) as T;
  } catch {
    throw new Problem(0, "offline", ""); // the connection broke in the middle of the answer
  }
}

/** What is working. A gateway that is unhealthy answers as well. */
export async function getHealth(signal?: AbortSignal): Promise<Health> {
  const response = await request("health", { signal });
  if (response.status !== 200 && response.status !== 503) throw await problemOf(response);
  const body = await response.text();
  try {
    const health = JSON.parse(body) as Health;
    if (health.status) return health;
  } catch {
    // not the gateway's own answer
  }
  throw new Problem(response.status, "http_503", body.slice(0, 200));
}

/** Find out whether the gateway takes jobs with the key that is kept, or without one. Raises if it does not. */
export async function checkKey(): Promise<void> {
  await json("v1/jobs?limit=1");
}

/** What is serving the page. */
export function getAbout(signal?: AbortSignal): Promise<About> {
  return json<About>("", { signal });
}

export interface Submission {
  type: JobType;
  input: Partial<GenerateInput> | Partial<RestoreInput> | Partial<CompareInput> | Record<string, unknown>;
  /** Files of the input, by the names of its fields: `image`, `mask`, `recipe_of`. */
  files?: Record<string, File | Blob>;
  /** Keep the files as outputs, for other jobs. */
  keepFiles?: boolean;
  priority?: number;
  /** Seconds; 60 at most. */
  wait?: number;
  previewEverySteps?: number;
  /** The same submission with the same key is one job, whoever sends it. Default: random. */
  key?: string;
}

/**
 * Submit a job; return it, ended if it ends within `wait`.
 *
 * Sent again with the same key if the connection breaks: whatever happens, there is one job.
 */
export async function submit(submission: Submission, signal?: AbortSignal): Promise<Job> {
  const headers: Record<string, string> = { "Idempotency-Key": submission.key ?? randomKey() };
  if (submission.wait) headers["Prefer"] = `wait=${submission.wait}`;
  const rest = {
    ...(submission.keepFiles ? { keep_files: true } : {}),
    ...(submission.priority ? { priority: submission.priority } : {}),
    ...(submission.previewEverySteps === undefined ? {} : { preview_interval_steps: submission.previewEverySteps }),
  };
  let body: BodyInit;
  if (submission.files) {
    const form = new FormData();
    form.set("type", submission.type);
    form.set("input", JSON.stringify(submission.input));
    for (const [name, value] of Object.entries(rest)) form.set(name, String(value));
    for (const [name, file] of Object.entries(submission.files)) form.set(name, file);
    body = form;
  } else {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify({ type: submission.type, input: submission.input, ...rest });
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await json<Job>("v1/jobs", { method: "POST", headers, body, signal });
    } catch (error) {
      if (!(error instanceof Problem && error.isOffline) || attempt === 3) throw error;
      await new Promise((resolve) => setTimeout(resolve, 600 * attempt));
    }
  }
}

export function getJob(id: string, signal?: AbortSignal): Promise<Job> {
  return json<Job>(`v1/jobs/${id}`, { signal });
}

/** Cancel a job; one that has ended stays as it is. */
export function cancelJob(id: string): Promise<Job> {
  return json<Job>(`v1/jobs/${id}/cancel`, { method: "POST" });
}

/** Delete what a job has made, now; one that has not ended is canceled. One that is gone already is no error. */
export async function deleteJob(id: string): Promise<void> {
  const response = await request(`v1/jobs/${id}/expire`, { method: "POST" });
  if (!response.ok && response.status !== 404 && response.status !== 410) throw await problemOf(response);
}

export interface JobEvent {
  name: "snapshot" | "status" | "progress" | "preview" | "output";
  data: unknown;
}

/** The gateway sends something every 15 s, if only a heartbeat. */
const SILENCE_MS = 40_000;

/**
 * Yield a job's events until it has ended, or the connection has. Raises `Problem`, with the code `silent` if nothing
 * comes for so long that something in between must hold it back.
 */
export async function* jobEvents(id: string, signal: AbortSignal): AsyncGenerator<JobEvent> {
  const end = new AbortController();
  const onAbort = () => end.abort();
  signal.addEventListener("abort", onAbort);
  if (signal.aborted) end.abort();
  let isSilent = false;
  const onSilence = () => {
    isSilent = true;
    end.abort();
  };
  let silence = setTimeout(onSilence, SILENCE_MS);
  try {
    const headers = { Accept: "text/event-stream" };
    const response = await request(`v1/jobs/${id}/events`, { headers, signal: end.signal });
    if (!response.ok || !response.body) throw await problemOf(response);
    const pending: JobEvent[] = [];
    const parser = createParser({
      onEvent: ({ event, data }) => pending.push({ name: event as JobEvent["name"], data: JSON.parse(data) }),
    });
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(onSilence, SILENCE_MS);
      parser.feed(decoder.decode(value, { stream: true }));
      yield* pending.splice(0);
    }
  } catch (error) {
    if (signal.aborted) throw error;
    if (isSilent) throw new Problem(504, "silent", "");
    if (error instanceof Problem) throw error;
    if (error instanceof SyntaxError) throw new Problem(502, "http_502", ""); // no event of the gateway's
    throw new Problem(0, "offline", "");
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", onAbort);
    end.abort(); // closes the connection
  }
}

/** Fetch an output. */
export async function getOutput(jobId: string, name: string, signal?: AbortSignal): Promise<Blob> {
  const response = await request(`v1/jobs/${jobId}/outputs/${name}`, { headers: { Accept: "*/*" }, signal });
  if (!response.ok) throw await problemOf(response);
  try {
    return await response.blob();
  } catch {
    throw new Problem(0, "offline", "");
  }
}

/** Read what a picture says of how it was made. */
export function inspect(file: Blob, signal?: AbortSignal): Promise<Inspection> {
  const form = new FormData();
  form.set("image", file);
  return json<Inspection>("v1/inspect", { method: "POST", body: form, signal });
}

/** Random, also where the page is served over plain HTTP, and `crypto.randomUUID` is missing. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
