/** Outputs of jobs as addresses that `<img>` can show. Fetched once; the least recently used are let go. */
import { effect } from "@preact/signals";
import { useCallback, useEffect, useState } from "preact/hooks";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";
import { healthProblem } from "./health";
import { apiKey } from "./key";

interface Held {
  url: Promise<string>;
  uses: number;
  /** It could not be fetched: the next use tries again. */
  hasFailed: boolean;
  /** Nobody is to see it any more, once those that show it have let go. */
  isForgotten: boolean;
}

const MOST_UNUSED = 60;
const held = new Map<string, Held>(); // in the order of their last use

/** Return the address of an output, fetching it if need be; call `release` with the same arguments when done. */
export function acquire(jobId: string, name: string): Promise<string> {
  const key = `${jobId}/${name}`;
  const last = held.get(key);
  const picture = last && !last.hasFailed ? last : fetched(jobId, name, last?.uses ?? 0);
  picture.uses += 1;
  held.delete(key);
  held.set(key, picture);
  return picture.url;
}

function fetched(jobId: string, name: string, uses: number): Held {
  const url = getOutput(jobId, name).then((blob) => URL.createObjectURL(blob));
  const picture: Held = { url, uses, hasFailed: false, isForgotten: false };
  url.catch(() => (picture.hasFailed = true));
  return picture;
}

export function release(jobId: string, name: string): void {
  const key = `${jobId}/${name}`;
  const picture = held.get(key);
  if (!picture) return;
  picture.uses -= 1;
  if (picture.uses <= 0 && (picture.hasFailed || picture.isForgotten)) letGo(key, picture);
  let unused = [...held.values()].filter((each) => each.uses <= 0).length;
  for (const [other, each] of held) {
    if (unused <= MOST_UNUSED) break;
    if (each.uses > 0) continue;
    letGo(other, each);
    unused -= 1;
  }
}

/** Let go of all outputs of a job that has been deleted. */
export function forgetPictures(jobId: string): void {
  for (const [key, picture] of held) {
    if (!key.startsWith(`${jobId}/`)) continue;
    picture.isForgotten = true;
    if (picture.uses <= 0) letGo(key, picture);
  }
}

function letGo(key: string, picture: Held): void {
  held.delete(key);
  void picture.url.then((url) => URL.revokeObjectURL(url)).catch(() => undefined);
}

export interface Picture {
  url: string | null;
  problem: Problem | null;
  /** Fetch it again. */
  retry: () => void;
}

const FIRST_RETRY_MS = 2000;
const LAST_RETRY_MS = 60_000;

/**
 * The address of an output while the component is there. `jobId` null: none. What may pass is waited for: it is fetched
 * again after a while, when the gateway is back, and with another key.
 */
export function usePicture(jobId: string | null, name: string): Picture {
  const key = `${jobId}/${name}`;
  const [{ attempt, ...picture }, set] = useState({ of: "", url: null as string | null, problem: null as Problem | null, attempt: 0 });
  const retry = useCallback(() => set((last) => ({ ...last, attempt: last.attempt + 1 })), []);
  useEffect(() => {
    if (jobId === null) return undefined;
    let current = true;
    const show = (url: string | null, problem: Problem | null) =>
      current && set((last) => ({ of: key, url, problem, attempt: last.of === key ? last.attempt : 0 }));
    acquire(jobId, name).then(
      (url) => show(url, null),
      (problem: unknown) => {
        if (!(problem instanceof Problem)) throw problem;
        show(null, problem);
      },
    );
    return () => {
      current = false;
      release(jobId, name);
    };
  }, [jobId, name, attempt]);
  const problem = picture.of === key ? picture.problem : null;
  useEffect(() => {
    if (!problem || !(problem.isTemporary || problem.status === 401)) return undefined;
    const ms = Math.min(FIRST_RETRY_MS * 2 ** attempt, LAST_RETRY_MS);
    const timer = problem.isTemporary ? setTimeout(retry, ms) : undefined; // time alone makes no key valid
    const stop = whenItMayWork(retry);
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [problem]);
  return { url: picture.of === key ? picture.url : null, problem, retry };
}

/** Call back when the gateway is back, or is asked with another key. */
function whenItMayWork(callback: () => void): () => void {
  let last = { isAway: healthProblem.peek() !== null, key: apiKey.peek() };
  return effect(() => {
    const now = { isAway: healthProblem.value !== null, key: apiKey.value };
    const mayWork = (last.isAway && !now.isAway) || last.key !== now.key;
    last = now;
    if (mayWork) queueMicrotask(callback);
  });
}
