import { expect, it } from "vitest";
import type { Inspection } from "../api/types";
import { toldBy } from "./recipe";

const NAMES = { seed: "Seed", modelSet: "Model set" };
const NOTHING: Inspection = { success: true, format: "png", items: {}, has_credentials: false, omitted: [] };

it("asks for one picture where the recipe is of several", () => {
  const recipe = {
    kind: "drawing",
    request: { prompt: "a fox", seed: 6, num_images: 3, width: 512 },
    seed: 8,
    image: [3, 3],
    model_set: { name: "demo" },
  };
  const told = toldBy({ ...NOTHING, recipe }, NAMES);
  expect(told.request).toEqual({ prompt: "a fox", seed: 8, width: 512 });
  expect(told.facts).toEqual([
    ["Seed", "8"],
    ["Model set", "demo"],
    ["width", "512"],
  ]);
});

it("reads another program's parameters", () => {
  const parameters = { Prompt: "a (fox:1.2)", "Negative prompt": "", Steps: "20", Sampler: "DPM++ 2M", "Size-1": "512" };
  const told = toldBy({ ...NOTHING, parameters }, NAMES);
  expect(told.kind).toBe("other");
  expect(told.request).toEqual({
    prompt: "a (fox:1.2)",
    prompt_syntax: "weighted",
    num_inference_steps: 20,
    sampler: "DPM++ 2M",
    width: 512,
  });
});

it("asks for nothing where there is nothing to draw", () => {
  expect(toldBy(NOTHING, NAMES).kind).toBe("nothing");
  expect(toldBy({ ...NOTHING, items: { "XMP:DigitalSourceType": "x" } }, NAMES).kind).toBe("nothing");
  const restored = toldBy({ ...NOTHING, recipe: { kind: "restoration", request: { fidelity: 0.6 } } }, NAMES);
  expect(restored).toEqual({ kind: "restoration", request: null, facts: [["fidelity", "0.6"]] });
  expect(toldBy({ ...NOTHING, items: { workflow: "{}" } }, NAMES)).toMatchObject({ kind: "other", request: null });
});
