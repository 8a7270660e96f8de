/** Asks for drawings, and shows them. */
import { signal } from "@preact/signals";
import { submit } from "../api/client";
import type { GenerateInput } from "../api/types";
import { putEntry } from "../store/entries";
import { learn } from "../store/jobs";
import { goTo } from "../store/route";

/** A request is on its way: the same is not asked for twice. */
export const isAsking = signal(false);

/** Draw what a request says, and show it; returns once it has been accepted. Raises `Problem`. */
export function generate(input: GenerateInput): Promise<void> {
  return ask(input, input, {});
}

/** Draw a picture again by the recipe in its file. `says`: the recipe's request, to show. Raises `Problem`. */
export function drawAgain(file: File, says: GenerateInput): Promise<void> {
  return ask({}, says, { recipe_of: file });
}

async function ask(input: GenerateInput, shown: GenerateInput, files: Record<string, File>): Promise<void> {
  if (isAsking.value) return;
  isAsking.value = true;
  try {
    const job = await submit({
      type: "generate",
      input,
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
    goTo("create", job.id);
  } finally {
    isAsking.value = false;
  }
}

/** Eight previews or so of a drawing. */
export function previewInterval(steps = 25): number {
  const interval = Math.round(Number(steps) / 8);
  return Number.isFinite(interval) ? Math.min(Math.max(interval, 1), 20) : 3;
}
