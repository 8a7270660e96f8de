/** What the gateway takes and returns, by names that read well; the shapes are generated from its OpenAPI document. */
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Job = Schemas["JobAnswer"];
export type JobType = Job["type"];
export type JobStatus = Job["status"];
export type Output = Schemas["OutputAnswer"];
export type Health = Schemas["HealthAnswer"];
export type NetworkRole = NonNullable<Schemas["NetworkAnswer"]["role"]>;
/** What `/` says in JSON. */
export interface About {
  name: string;
  version: string;
  model: string | null;
  device: string | null;
}
export type Inspection = Schemas["InspectAnswer"];
export type FoundFace = Schemas["FoundFace"];
export type RestoredFace = Schemas["RestoredFace"];
export type DrawnFace = Schemas["FaceAnswer"];
export type GenerateReport = Omit<Schemas["GenerateAnswer"], "image" | "image_base64" | "images">;
export type RestoreReport = Omit<Schemas["RestoreAnswer"], "image" | "mask">;
export type DetectReport = Schemas["DetectAnswer"];
export type SkipReason = NonNullable<RestoredFace["reason"]>;

/** The result of a drawing's job: the report of its first image, and those of all if several were asked for. */
export type DrawingResult = GenerateReport & {
  images?: DrawnImage[];
};
export type DrawnImage = Pick<GenerateReport, "seed" | "final_resolution" | "faces" | "warnings" | "stages"> & {
  face_restoration_applied: boolean;
  face_restoration_reason?: SkipReason | null;
};
export type ComparisonResult = { success: true; results: (RestoreReport & { fidelity: number })[] };

/** An output of another job, in place of a file. */
export interface OutputOfJob {
  job: string;
  output: string;
}

/** The part of `POST /generate` that the page uses. */
export interface GenerateInput {
  prompt?: string;
  negative_prompt?: string;
  prompt_syntax?: "plain" | "weighted";
  width?: number;
  height?: number;
  num_inference_steps?: number;
  guidance_scale?: number;
  sampler?: string;
  schedule?: string;
  seed?: number;
  hires_fix?: boolean;
  use_refiner?: boolean;
  use_face_restoration?: boolean;
  face_restoration_weight?: number;
  match_tone?: boolean;
  use_realesrgan?: boolean;
  upscale?: 1 | 2 | 4;
  num_images?: number;
  output_format?: "png" | "jpeg" | "webp";
  recipe_of?: OutputOfJob;
  any_model_set?: boolean;
}

/** A face of `/detect`, with what is to be done to it. */
export type FaceEdit = FoundFace & { fidelity?: number; visibility?: number; skip?: boolean };

/** The part of `POST /restore` that the page uses. */
export interface RestoreInput {
  image: OutputOfJob;
  faces?: FaceEdit[];
  fidelity?: number;
  visibility?: number;
  match_tone?: boolean;
  use_realesrgan?: boolean;
  upscale?: 1 | 2 | 4;
  identity?: "off" | "report" | "guard";
  mask?: "feather" | "parse";
  look?: "auto" | "once" | "thorough";
  max_faces?: number;
  return_mask?: boolean;
  return_crops?: boolean;
  output_format?: "png" | "jpeg" | "webp";
  quality?: number;
}

export type CompareInput = Omit<RestoreInput, "fidelity"> & { fidelities: number[] };
