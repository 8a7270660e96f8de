/** What became of a drawing, from its job's result. */
import type { DrawingResult, GenerateInput, Job, SkipReason } from "../api/types";
import type { InView } from "./state";

export interface Outcome {
  seed: number;
  prompt: string;
  width: number;
  height: number;
  faces: DrawingResult["faces"];
  restorationReason: SkipReason | null;
  refinerReason: SkipReason | null;
  hiresReason: SkipReason | null;
  /** Sentences of the gateway. */
  warnings: string[];
}

/** Of the nth picture, from 0; null while there is none. */
export function outcomeOf(job: Job | null, number: number): Outcome | null {
  if (job?.type !== "generate" || job.status !== "completed" || !job.result) return null;
  const result = job.result as unknown as DrawingResult;
  const own = result.images?.[number] ?? result;
  const [width = 0, height = 0] = own.final_resolution.split("x").map(Number);
  return {
    seed: own.seed,
    prompt: result.prompt,
    width,
    height,
    faces: own.faces ?? [],
    restorationReason: own.face_restoration_reason ?? null,
    refinerReason: result.refiner_reason ?? null,
    hiresReason: result.hires_fix_reason ?? null,
    warnings: own.warnings ?? [],
  };
}

/** Whether the slider "Fidelity" acts on a picture. `hasDrawing`: it is there as it was before its faces were restored. */
export function effectOf(
  outcome: Outcome | null,
  input: GenerateInput | null,
  hasDrawing: boolean,
): InView["effect"] {
  if (input?.use_face_restoration === false) return "no-drawing";
  if (!outcome) return "later";
  if (!hasDrawing || !input) return "no-drawing";
  return outcome.faces.some((face) => face.restored) ? "acts" : "no-face";
}

/** How many pictures a job makes. */
export function countOf(job: Job | null, input: GenerateInput | null, previews: number): number {
  const result = job?.result as unknown as DrawingResult | null | undefined;
  if (job?.type === "generate" && job.status === "completed") return result?.images?.length ?? 1;
  return Math.max(input?.num_images ?? 1, previews, 1);
}
