/** Outputs of jobs as addresses that `<img>` can show. Fetched once; the least recently used are let go. */
import { useEffect, useState } from "preact/hooks";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";

interface Held {
  url: Promise<string>;
  uses: number;
  controller: AbortController;
}

const MOST_UNUSED = 60;
const held = new Map<string, Held>(); // in the order of their last use

/** Return the address of an output, fetching it if need be; call `release` with the same arguments when done. */
export function acquire(jobId: string, name: string): Promise<string> {
  const key = `${jobId}/${name}`;
  let picture = held.get(key);
  if (picture) {
    held.delete(key);
  } else {
    const controller = new AbortController();
    const url = getOutput(jobId, name, controller.signal).then((blob) => URL.createObjectURL(blob));
    picture = { url, uses: 0, controller };
    url.catch(() => held.delete(key)); // the next use tries again
  }
  picture.uses += 1;
  held.set(key, picture);
  return picture.url;
}

export function release(jobId: string, name: string): void {
  const picture = held.get(`${jobId}/${name}`);
  if (!picture) return;
  picture.uses -= 1;
  let unused = [...held.values()].filter((each) => each.uses <= 0).length;
  for (const [key, each] of held) {
    if (unused <= MOST_UNUSED) break;
    if (each.uses > 0) continue;
    held.delete(key);
    unused -= 1;
    void each.url.then((url) => URL.revokeObjectURL(url)).catch(() => undefined);
  }
}

export interface Picture {
  url: string | null;
  problem: Problem | null;
}

/** The address of an output while the component is there. `jobId` null: none. */
export function usePicture(jobId: string | null, name: string): Picture {
  const [picture, setPicture] = useState<Picture & { of: string }>({ url: null, problem: null, of: "" });
  const key = `${jobId}/${name}`;
  useEffect(() => {
    if (jobId === null) return undefined;
    let current = true;
    acquire(jobId, name).then(
      (url) => current && setPicture({ url, problem: null, of: key }),
      (problem: unknown) =>
        current && problem instanceof Problem && setPicture({ url: null, problem, of: key }),
    );
    return () => {
      current = false;
      release(jobId, name);
    };
  }, [jobId, name]);
  return picture.of === key ? picture : { url: null, problem: null };
}
