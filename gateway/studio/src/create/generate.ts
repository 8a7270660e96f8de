/** Asks for drawings, and shows them. */
import { signal } from "@preact/signals";
import { randomKey, submit } from "../api/client";
import { Problem } from "../api/problem";
import type { GenerateInput, Job } from "../api/types";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { putEntry } from "../store/entries";
import { learn } from "../store/jobs";
import { goTo, route } from "../store/route";
import { describeProblem } from "../text/words";
import { type Asked, forgetAsked, keepAsked, Keys, readAsked } from "./asked";

/** A request is on its way: the same is not asked for twice. */
export const isAsking = signal(false);

/** The code of the problem that another request is on its way. */
export const ASKING = "asking";

const keys = new Keys(randomKey);

/** Draw what a request says, and show it; returns once it has been accepted. Raises `Problem`. */
export function generate(input: GenerateInput): Promise<void> {
  return ask(input, input, {});
}

/**
 * Draw a picture again by the recipe in its file. `says`: the recipe's request, to show. `anyModelSet`: also with
 * another model set than the recipe's. Raises `Problem`.
 */
export function drawAgain(file: File, says: GenerateInput, anyModelSet = false): Promise<void> {
  return ask(anyModelSet ? { any_model_set: true } : {}, says, { recipe_of: file });
}

async function ask(input: GenerateInput, shown: GenerateInput, files: Record<string, File>): Promise<void> {
  if (isAsking.value) throw new Problem(409, ASKING, t.value.create.isAsking);
  isAsking.value = true;
  const { tab } = route.value;
  const hasFiles = Object.keys(files).length > 0;
  const asked: Asked = { key: hasFiles ? randomKey() : keys.of(input), at: Date.now(), input, shown, files };
  try {
    await keepAsked(asked);
    const job = await send(asked);
    keys.answered();
    if (route.value.tab === tab) goTo("create", job.id);
    else announce(t.value.create.asked); // the person has gone elsewhere meanwhile
  } catch (error) {
    if (!hasFiles && error instanceof Problem && error.isTemporary) keys.unanswered(asked);
    throw error;
  } finally {
    isAsking.value = false;
    void forgetAsked(asked.key);
  }
}

async function send({ key, input, shown, files }: Asked): Promise<Job> {
  const job = await submit({
    type: "generate",
    input,
    key,
    ...(Object.keys(files).length > 0 ? { files } : {}),
    previewEverySteps: previewInterval(shown.num_inference_steps),
  });
  learn(job);
  await putEntry({
    kind: "creation",
    id: job.id,
    createdAt: Date.parse(job.created_at) || Date.now(),
    expiresAt: null,
    thumbnail: null,
    input: shown,
  });
  return job;
}

/** Send again what was asked for when the page was left before it was answered, and show it after a reload. */
export async function goOn(): Promise<void> {
  const [navigation] = performance.getEntriesByType("navigation");
  const isReload = (navigation as PerformanceNavigationTiming | undefined)?.type === "reload";
  const left = await readAsked();
  if (left.length === 0) return;
  if (isReload) isAsking.value = true;
  for (const asked of left) {
    try {
      const job = await send(asked);
      if (isReload && route.value.tab === "create") goTo("create", job.id, { replace: true });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      announce(describeProblem(error), "error");
      if (error.isTemporary) {
        keys.unanswered(asked);
        continue; // kept: the next time that the page is opened soon
      }
    }
    await forgetAsked(asked.key);
  }
  if (isReload) isAsking.value = false;
}

/** Eight previews or so of a drawing. */
export function previewInterval(steps = 25): number {
  const interval = Math.round(Number(steps) / 8);
  return Number.isFinite(interval) ? Math.min(Math.max(interval, 1), 20) : 3;
}
