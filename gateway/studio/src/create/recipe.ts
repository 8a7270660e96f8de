/** What a picture says of how it was made, as a request. */
import type { GenerateInput, Inspection } from "../api/types";
import { SILENT } from "./form";

export interface Told {
  kind: "drawing" | "restoration" | "other" | "nothing";
  /** Null where nothing can be asked for. */
  request: GenerateInput | null;
  /** By the names that the file gives. */
  facts: [name: string, value: string][];
}

interface Recipe {
  kind?: string;
  request?: GenerateInput;
  seed?: number;
  image?: [number, number];
  model_set?: { name?: string };
}

/** `names`: the page's words for facts of recipes. */
export function toldBy(inspection: Inspection, names: { seed: string; modelSet: string }): Told {
  const recipe = inspection.recipe as Recipe | null | undefined;
  if (recipe?.kind === "drawing" && recipe.request) {
    const request = ownRequest(recipe, recipe.request);
    const { prompt: _, seed, ...rest } = request;
    const facts = Object.entries(rest).filter(saysSomething).map(toFact);
    const modelSet = recipe.model_set?.name;
    return {
      kind: "drawing",
      request,
      facts: [[names.seed, wordsOf(seed)], ...(modelSet ? [[names.modelSet, modelSet] as [string, string]] : []), ...facts],
    };
  }
  if (recipe?.kind === "restoration") {
    return { kind: "restoration", request: null, facts: Object.entries(recipe.request ?? {}).map(toFact) };
  }
  const parameters = inspection.parameters ?? {};
  if (Object.keys(parameters).length > 0) {
    const { Prompt: _, ...rest } = parameters;
    return { kind: "other", request: requestOf(parameters), facts: Object.entries(rest).filter(([, value]) => value) };
  }
  const items = Object.entries(inspection.items).filter(([name]) => !/^(XMP|EXIF|IPTC):/.test(name));
  return items.length > 0 ? { kind: "other", request: null, facts: items } : { kind: "nothing", request: null, facts: [] };
}

/** Of several pictures each carries the request for all; what is asked for is this one. */
function ownRequest({ seed, image }: Recipe, request: GenerateInput) {
  const { num_images: _, ...rest } = request;
  const isOneOfSeveral = (image?.[1] ?? 1) > 1;
  return { ...(isOneOfSeveral ? rest : request), ...(seed === undefined ? {} : { seed }) };
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
  return SILENT[name] !== value && !(name === "prompt_syntax" && value === "plain");
}

function toFact([name, value]: [string, unknown]): [string, string] {
  return [name, wordsOf(value)];
}

function wordsOf(value: unknown): string {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}
