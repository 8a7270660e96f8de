/** A finished picture at other fidelities: its drawing is restored again, and neighbors of the value are got ahead. */
import { cancelJob, submit } from "../api/client";
import { Problem } from "../api/problem";
import type { GenerateInput, Job, RestoreInput } from "../api/types";
import { recordJob } from "../store/deleting";
import { isFinal, isOver, jobState, learn, watch } from "../store/jobs";
import { acquire, release } from "../store/pictures";

/** `signal`: nobody wants it any more. `ahead`: nobody waits for it yet. */
export type Ask<V> = (value: number, ahead: boolean, signal: AbortSignal) => Promise<V>;

interface Asked<V> {
  answer: Promise<V>;
  controller: AbortController;
}

/** Answers by fidelity; the least recently used are let go. What is wanted last wins over whatever else was asked for. */
export class Fidelities<V> {
  readonly #ask: Ask<V>;
  readonly #most: number;
  readonly #kept = new Map<number, V>();
  readonly #asked = new Map<number, Asked<V>>();
  #wanted: number | null = null;

  constructor(ask: Ask<V>, most = 12) {
    this.#ask = ask;
    this.#most = most;
  }

  kept(value: number): V | null {
    return this.#kept.get(keyOf(value)) ?? null;
  }

  /** Return the answer for a value; null if another one has been wanted since. */
  async want(value: number): Promise<V | null> {
    const key = keyOf(value);
    this.#wanted = key;
    this.#dropAllBut([key]);
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.#keep(key, kept);
      return kept;
    }
    try {
      const answer = await (this.#asked.get(key) ?? this.#begin(key, false)).answer;
      return this.#wanted === key ? answer : null;
    } catch (error) {
      if (this.#wanted !== key) return null;
      throw error;
    }
  }

  /** Get answers before they are wanted. Those that others were begun for are no longer waited for. */
  ahead(values: readonly number[]): void {
    const keys = values.map(keyOf);
    this.#dropAllBut([...keys, ...(this.#wanted === null ? [] : [this.#wanted])]);
    for (const key of keys) {
      if (this.#kept.has(key) || this.#asked.has(key)) continue;
      this.#begin(key, true).answer.catch(() => undefined); // it is asked for again once it is wanted
    }
  }

  /** Nothing is wanted any more. */
  stop(): void {
    this.#wanted = null;
    this.#dropAllBut([]);
  }

  #begin(key: number, ahead: boolean): Asked<V> {
    const controller = new AbortController();
    const answer = this.#ask(key, ahead, controller.signal).then(
      (found) => {
        if (this.#asked.get(key) === asked) this.#asked.delete(key);
        if (!controller.signal.aborted) this.#keep(key, found);
        return found;
      },
      (error: unknown) => {
        if (this.#asked.get(key) === asked) this.#asked.delete(key);
        throw error;
      },
    );
    const asked = { answer, controller };
    this.#asked.set(key, asked);
    return asked;
  }

  #keep(key: number, found: V): void {
    this.#kept.delete(key);
    this.#kept.set(key, found);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= this.#most) break;
      this.#kept.delete(oldest);
    }
  }

  #dropAllBut(keys: readonly number[]): void {
    for (const [key, { controller }] of this.#asked) {
      if (keys.includes(key)) continue;
      this.#asked.delete(key);
      controller.abort();
    }
  }
}

/** Fidelities are told apart in hundredths. */
function keyOf(value: number): number {
  return Math.round(value * 100) / 100;
}

/** The values beside one, at the distance of a step. */
export function neighborsOf(value: number, step = 0.1): number[] {
  return [value + step, value - step].map(keyOf).filter((each) => each >= 0 && each <= 1);
}

export function isSame(one: number, other: number): boolean {
  return keyOf(one) === keyOf(other);
}

/** The name of an output of the nth picture of a job: `image`, `image_2`, ... */
export function outputOf(name: "image" | "drawn", number: number): string {
  return number === 0 ? name : `${name}_${number + 1}`;
}

/** What restores a drawing as its own job did, but for the fidelity. */
export function restorationOf(job: string, number: number, input: GenerateInput, fidelity: number): RestoreInput {
  return {
    image: { job, output: outputOf("drawn", number) },
    fidelity,
    look: "once",
    identity: "off",
    upscale: input.upscale ?? 1,
    ...(input.match_tone === undefined || input.match_tone === null ? {} : { match_tone: input.match_tone }),
    ...(input.use_realesrgan === false ? { use_realesrgan: false } : {}),
    ...(input.output_format ? { output_format: input.output_format } : {}),
  };
}

const AHEAD = -50;

/** Restore a drawing at another fidelity; return the job whose `image` it is. Raises `Problem`. */
export async function restoreAgain(input: RestoreInput, ahead: boolean, signal: AbortSignal): Promise<string> {
  const job = await submit({ type: "restore", input, ...(ahead ? { priority: AHEAD } : {}) });
  await recordJob(input.image.job, job);
  try {
    signal.throwIfAborted();
    const ended = await endOf(job.id, !ahead, signal);
    if (ended.status !== "completed") {
      throw new Problem(500, ended.error?.code ?? ended.status, ended.error?.message ?? ended.status);
    }
    await acquire(job.id, "image"); // on the screen at once, when it is wanted
    release(job.id, "image");
    return job.id;
  } catch (error) {
    if (signal.aborted && !isOver(job.id)) await cancelJob(job.id).then(learn, () => undefined);
    throw error;
  }
}

/** Follow a job to its end. */
async function endOf(id: string, live: boolean, signal: AbortSignal): Promise<Job> {
  const stop = watch(id, live);
  let unsubscribe = () => {};
  try {
    return await new Promise<Job>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      unsubscribe = jobState(id).subscribe(({ job, gone }) => {
        if (gone) reject(new Problem(410, "gone", ""));
        else if (job && isFinal(job)) resolve(job);
      });
    });
  } finally {
    unsubscribe();
    stop();
  }
}
