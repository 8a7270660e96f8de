/** What a picture says of how it was made, as a request. */
import type { GenerateInput, Inspection } from "../api/types";
import { MOST_PICTURES, SAMPLERS, SILENT } from "./form";

export interface Told {
  kind: "drawing" | "restored drawing" | "restoration" | "other" | "nothing";
  /** Null where nothing can be asked for. */
  request: GenerateInput | null;
  /** From an image, which is not in the file. */
  beganFrom: boolean;
  /** By the names that the file gives. */
  facts: [name: string, value: string][];
}

const NOTHING: Told = { kind: "nothing", request: null, beganFrom: false, facts: [] };

/** A file's recipe. Anyone can have written it, so that nothing of it is trusted to have the right shape. */
type Recipe = Readonly<Record<string, unknown>>;

/** Names of facts that are no fields of a request. */
export const SEED = "seed";
export const MODEL_SET = "model_set";

export function toldBy(inspection: Inspection): Told {
  const recipe = isObject(inspection.recipe) ? inspection.recipe : null;
  const drawn = recipe && drawingOf(recipe);
  if (drawn) {
    const modelSet = isObject(drawn.recipe["model_set"]) ? drawn.recipe["model_set"]["name"] : null;
    const facts = factsOf(drawn.request);
    return {
      kind: drawn.recipe === recipe ? "drawing" : "restored drawing",
      request: drawn.request,
      beganFrom: isObject(drawn.recipe["started_from"]) && Object.keys(drawn.recipe["started_from"]).length > 0,
      facts: typeof modelSet === "string" ? [...facts.slice(0, 1), [MODEL_SET, modelSet], ...facts.slice(1)] : facts,
    };
  }
  if (recipe?.["kind"] === "restoration") {
    const request = isObject(recipe["request"]) ? recipe["request"] : {};
    return { ...NOTHING, kind: "restoration", facts: Object.entries(request).map(toFact) };
  }
  const parameters = inspection.parameters ?? {};
  if (Object.keys(parameters).length > 0) {
    const { Prompt: _, ...rest } = parameters;
    const facts = Object.entries(rest).filter(([, value]) => value);
    return { ...NOTHING, kind: "other", request: requestOf(parameters), facts };
  }
  const items = Object.entries(inspection.items).filter(([name]) => !/^(XMP|EXIF|IPTC):/.test(name));
  return items.length > 0 ? { ...NOTHING, kind: "other", facts: items } : NOTHING;
}

/**
 * The recipe that draws a picture as it is now: that of its drawing, with the fidelity at which its faces were restored
 * afterwards, if they were.
 */
export function recipeToDraw(recipe: Recipe): Recipe {
  const drawn = drawingOf(recipe);
  if (!drawn || drawn.recipe === recipe) return recipe;
  const fidelity = drawn.request.face_restoration_weight;
  const { of: _, restoration: __, ...rest } = drawn.recipe;
  const request = drawn.recipe["request"] as Record<string, unknown>;
  return {
    ...rest,
    request: { ...request, use_face_restoration: true, face_restoration_weight: fidelity },
    ...("restoration" in drawn.recipe || "faces" in recipe ? { restoration: { applied: true, faces: recipe["faces"] } } : {}),
  };
}

/** The drawing that a recipe is of, and the request for it: of a restored one, with the fidelity of the restoration. */
function drawingOf(recipe: Recipe): { recipe: Recipe; request: GenerateInput } | null {
  if (recipe["kind"] === "drawing") {
    const request = readRequest(recipe["request"]);
    return request && { recipe, request: ownRequest(recipe, request) };
  }
  if (recipe["kind"] !== "restoration" || !isObject(recipe["of"])) return null;
  const drawn = drawingOf(recipe["of"]);
  if (!drawn) return null;
  const fidelity = isObject(recipe["request"]) ? recipe["request"]["fidelity"] : null;
  const weight = typeof fidelity === "number" ? { face_restoration_weight: fidelity } : {};
  const { sampler, schedule, ...request } = drawn.request;
  // One of the model set's own is its default, and no request can name it.
  const isKnown = SAMPLERS.some((each) => each === sampler);
  return {
    recipe: drawn.recipe,
    request: { ...request, ...(isKnown && { sampler, schedule }), use_face_restoration: true, ...weight },
  };
}

/** Of several pictures each carries the request for all; what is asked for is this one. */
function ownRequest(recipe: Recipe, request: GenerateInput): GenerateInput {
  const { num_images: _, ...rest } = request;
  const { image, seed } = recipe;
  const isOneOfSeveral = Array.isArray(image) && Number(image[1]) > 1;
  return { ...(isOneOfSeveral ? rest : request), ...(typeof seed === "number" ? { seed } : {}) };
}

const TEXTS = ["prompt", "negative_prompt", "prompt_syntax", "sampler", "schedule"];
const SWITCHES = ["hires_fix", "use_refiner", "use_face_restoration"];
const NUMBERS = ["width", "height", "num_inference_steps", "guidance_scale", "seed"];

/** A request, without those of the form's fields that are not of their kind; null if it is none. */
function readRequest(request: unknown): GenerateInput | null {
  if (!isObject(request) || typeof request["prompt"] !== "string") return null;
  const isRight = ([name, value]: [string, unknown]) => {
    if (TEXTS.includes(name)) return typeof value === "string";
    if (SWITCHES.includes(name)) return typeof value === "boolean";
    if (NUMBERS.includes(name)) return typeof value === "number";
    if (name === "face_restoration_weight") return typeof value === "number" && value >= 0 && value <= 1;
    if (name === "num_images") return Number.isInteger(value) && Number(value) >= 1 && Number(value) <= MOST_PICTURES;
    if (name === "upscale") return value === 1 || value === 2 || value === 4;
    return value !== null;
  };
  return Object.fromEntries(Object.entries(request).filter(isRight));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What a request says besides its prompt, the seed first. */
export function factsOf({ prompt: _, seed, ...rest }: GenerateInput): Told["facts"] {
  const facts = Object.entries(rest).filter(saysSomething).map(toFact);
  return seed === undefined ? facts : [[SEED, wordsOf(seed)], ...facts];
}

/** AUTOMATIC1111's parameters. Its prompts have weights; its names of samplers and schedules the gateway knows. */
function requestOf(parameters: Record<string, string>): GenerateInput | null {
  if (!parameters["Prompt"]) return null;
  const number = (name: string) => {
    const value = Number(parameters[name]);
    return parameters[name] && Number.isFinite(value) ? value : undefined;
  };
  const request: GenerateInput = {
    prompt: parameters["Prompt"],
    negative_prompt: parameters["Negative prompt"] || undefined,
    prompt_syntax: "weighted",
    num_inference_steps: number("Steps"),
    guidance_scale: number("CFG scale"),
    seed: number("Seed"),
    sampler: parameters["Sampler"] || undefined,
    schedule: parameters["Schedule type"] || undefined,
    width: number("Size-1"),
    height: number("Size-2"),
  };
  return Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));
}

function saysSomething([name, value]: [string, unknown]): boolean {
  return value !== undefined && value !== null && SILENT[name] !== value && !(name === "prompt_syntax" && value === "plain");
}

function toFact([name, value]: [string, unknown]): [string, string] {
  return [name, wordsOf(value)];
}

function wordsOf(value: unknown): string {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}
