/** The fields of the form, and how they become a request and come from one. */
import type { GenerateInput } from "../api/types";

/** What is typed is kept as it was typed: what is wrong with it, the gateway says. Empty: its default. */
export interface Form {
  prompt: string;
  negativePrompt: string;
  weighted: boolean;
  width: string;
  height: string;
  restoreFaces: boolean;
  fidelity: number;
  hires: boolean;
  pictures: number;
  seed: string;
  steps: string;
  guidance: string;
  sampler: string;
  schedule: string;
  refiner: boolean;
  upscale: 1 | 2 | 4;
  /** What a recipe says besides, by the gateway's names. */
  others: Record<string, unknown>;
}

export const DEFAULTS: Readonly<Form> = {
  prompt: "",
  negativePrompt: "",
  weighted: false,
  width: "1024",
  height: "1024",
  restoreFaces: true,
  fidelity: 0.6,
  hires: false,
  pictures: 1,
  seed: "",
  steps: "",
  guidance: "",
  sampler: "",
  schedule: "",
  refiner: true,
  upscale: 1,
  others: {},
};

export const LONGEST_PROMPT = 2000;
export const MOST_PICTURES = 10;

/** Sizes at which SDXL draws well. */
export const SHAPES = {
  square: [1024, 1024],
  portrait: [832, 1216],
  landscape: [1216, 832],
  tall: [768, 1344],
  wide: [1344, 768],
} as const;
export type Shape = keyof typeof SHAPES;

export const SAMPLERS = [
  "euler",
  "euler_ancestral",
  "heun",
  "dpmpp_2m",
  "dpmpp_2m_sde",
  "dpmpp_3m_sde",
  "ddim",
  "unipc",
  "lcm",
  "tcd",
] as const;
export const SCHEDULES = ["default", "karras", "exponential", "beta", "trailing"] as const;

export function shapeOf({ width, height }: Pick<Form, "width" | "height">): Shape | null {
  for (const [name, size] of Object.entries(SHAPES)) {
    if (String(size[0]) === width.trim() && String(size[1]) === height.trim()) return name as Shape;
  }
  return null;
}

/** Each field of the form that the gateway may refuse, by the gateway's name. */
export const FIELDS: Readonly<Record<string, keyof Form>> = {
  prompt: "prompt",
  negative_prompt: "negativePrompt",
  prompt_syntax: "weighted",
  width: "width",
  height: "height",
  num_inference_steps: "steps",
  guidance_scale: "guidance",
  sampler: "sampler",
  schedule: "schedule",
  seed: "seed",
  hires_fix: "hires",
  use_refiner: "refiner",
  use_face_restoration: "restoreFaces",
  face_restoration_weight: "fidelity",
  upscale: "upscale",
  num_images: "pictures",
};

/** Fields that are folded away. */
export const IN_MORE: readonly (keyof Form)[] = [
  "negativePrompt",
  "weighted",
  "width",
  "height",
  "steps",
  "guidance",
  "sampler",
  "schedule",
  "refiner",
  "upscale",
];

/** The request. */
export function toInput(form: Form): GenerateInput {
  return {
    ...form.others,
    prompt: form.prompt.trim(),
    ...(form.negativePrompt.trim() && { negative_prompt: form.negativePrompt.trim() }),
    ...(form.weighted && { prompt_syntax: "weighted" as const }),
    ...number("width", form.width),
    ...number("height", form.height),
    ...number("num_inference_steps", form.steps),
    ...number("guidance_scale", form.guidance),
    ...(form.sampler && { sampler: form.sampler }),
    ...(form.schedule && { schedule: form.schedule }),
    ...number("seed", form.seed),
    hires_fix: form.hires,
    use_refiner: form.refiner,
    use_face_restoration: form.restoreFaces,
    ...(form.restoreFaces && { face_restoration_weight: form.fidelity }),
    ...(form.upscale > 1 && { upscale: form.upscale }),
    ...(form.pictures > 1 && { num_images: form.pictures }),
  };
}

const DECIMAL = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i; // no 0x10, which `Number` would take for 16

/** A number; what is none goes as it is, for the gateway to refuse it at its field. */
function number(name: keyof GenerateInput, text: string): GenerateInput {
  const typed = text.trim().replace(/^([+-]?\d*),(\d+)$/, "$1.$2");
  if (typed === "") return {};
  const value = DECIMAL.test(typed) ? Number(typed) : Number.NaN;
  return { [name]: Number.isFinite(value) ? value : typed };
}

/** Values that say nothing, since they are the gateway's defaults. */
export const SILENT: Readonly<Record<string, unknown>> = {
  refiner_strength: 0.3,
  use_realesrgan: true,
  on_restore_failure: "return_base",
  output_format: "png",
  metadata: "recipe",
};

/** The form that asks for what a request, or a recipe's, does. */
export function fromInput(input: GenerateInput): Form {
  const text = (value: unknown) => (value === undefined || value === null ? "" : String(value));
  const others = Object.fromEntries(
    Object.entries(input).filter(
      ([name, value]) => !(name in FIELDS) && value !== null && value !== undefined && SILENT[name] !== value,
    ),
  );
  return {
    prompt: text(input.prompt),
    negativePrompt: text(input.negative_prompt),
    weighted: input.prompt_syntax === "weighted",
    width: text(input.width ?? DEFAULTS.width),
    height: text(input.height ?? DEFAULTS.height),
    restoreFaces: input.use_face_restoration ?? DEFAULTS.restoreFaces,
    fidelity: input.face_restoration_weight ?? DEFAULTS.fidelity,
    hires: input.hires_fix ?? DEFAULTS.hires,
    pictures: input.num_images ?? DEFAULTS.pictures,
    seed: input.seed === -1 ? "" : text(input.seed),
    steps: text(input.num_inference_steps),
    guidance: text(input.guidance_scale),
    sampler: text(input.sampler),
    schedule: text(input.schedule),
    refiner: input.use_refiner ?? DEFAULTS.refiner,
    upscale: input.upscale ?? DEFAULTS.upscale,
    others,
  };
}

/** The size of the finished picture in px, as far as the request tells. */
export function sizeOf(input: GenerateInput): { width: number; height: number } {
  const scale = (input.hires_fix ? 1.5 : 1) * (input.upscale ?? 1);
  return { width: (input.width ?? 1024) * scale, height: (input.height ?? 1024) * scale };
}

/** The form that was kept as JSON; what is not of its kind is as it is by default. */
export function readForm(kept: string | null): Form {
  try {
    const found = JSON.parse(kept ?? "{}") as Record<string, unknown>;
    const entries = Object.entries(DEFAULTS).map(([name, value]) => {
      const own = found[name];
      return [name, typeof own === typeof value && own !== null ? own : value];
    });
    return Object.fromEntries(entries) as Form;
  } catch {
    return { ...DEFAULTS };
  }
}
