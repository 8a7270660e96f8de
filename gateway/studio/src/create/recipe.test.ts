import { expect, it } from "vitest";
import type { Inspection } from "../api/types";
import { recipeToDraw, toldBy } from "./recipe";

const NOTHING: Inspection = { success: true, format: "png", items: {}, has_credentials: false, omitted: [] };

it("asks for one picture where the recipe is of several", () => {
  const recipe = {
    kind: "drawing",
    request: { prompt: "a fox", seed: 6, num_images: 3, width: 512 },
    seed: 8,
    image: [3, 3],
    model_set: { name: "demo" },
  };
  const told = toldBy({ ...NOTHING, recipe });
  expect(told.request).toEqual({ prompt: "a fox", seed: 8, width: 512 });
  expect(told.facts).toEqual([
    ["seed", "8"],
    ["model_set", "demo"],
    ["width", "512"],
  ]);
});

it("reads another program's parameters", () => {
  const parameters = { Prompt: "a (fox:1.2)", "Negative prompt": "", Steps: "20", Sampler: "DPM++ 2M", "Size-1": "512" };
  const told = toldBy({ ...NOTHING, parameters });
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
  expect(toldBy(NOTHING).kind).toBe("nothing");
  expect(toldBy({ ...NOTHING, items: { "XMP:DigitalSourceType": "x" } }).kind).toBe("nothing");
  const restored = toldBy({ ...NOTHING, recipe: { kind: "restoration", request: { fidelity: 0.6 } } });
  expect(restored).toMatchObject({ kind: "restoration", request: null, facts: [["fidelity", "0.6"]] });
  expect(toldBy({ ...NOTHING, items: { workflow: "{}" } })).toMatchObject({ kind: "other", request: null });
});

const DRAWING = {
  kind: "drawing",
  request: { prompt: "a fox", seed: 6, num_images: 2, face_restoration_weight: 0.6 },
  seed: 7,
  image: [2, 2],
  restoration: { applied: true, faces: ["at 0.6"] },
};
const RESTORED = { kind: "restoration", request: { fidelity: 0.2, look: "once" }, faces: ["at 0.2"], of: DRAWING };

it("draws a picture whose faces were restored again, at that fidelity", () => {
  const told = toldBy({ ...NOTHING, recipe: RESTORED });
  expect(told.kind).toBe("restored drawing");
  const request = { prompt: "a fox", seed: 7, use_face_restoration: true, face_restoration_weight: 0.2 };
  expect(told.request).toEqual(request);
});

it("copies a recipe with prompt, seed and the fidelity that is seen", () => {
  expect(recipeToDraw(DRAWING)).toBe(DRAWING);
  expect(recipeToDraw(RESTORED)).toEqual({
    ...DRAWING,
    request: { ...DRAWING.request, use_face_restoration: true, face_restoration_weight: 0.2 },
    restoration: { applied: true, faces: ["at 0.2"] },
  });
});

it("takes nothing from a recipe that is not of its kind", () => {
  const told = (recipe: object) => toldBy({ ...NOTHING, recipe: recipe as Record<string, unknown> });
  expect(told({ kind: "drawing", request: "x" })).toMatchObject({ kind: "nothing", request: null });
  const request = { prompt: "a fox", width: {}, upscale: 3, face_restoration_weight: 7, hires_fix: "yes", steps: null };
  expect(told({ kind: "drawing", request, seed: "x", model_set: "x", image: 3 }).request).toEqual({ prompt: "a fox" });
});

it("says that a picture began from another", () => {
  const recipe = { ...DRAWING, started_from: { image_sha256: "ab" } };
  expect(toldBy({ ...NOTHING, recipe }).beganFrom).toBe(true);
  expect(toldBy({ ...NOTHING, recipe: DRAWING }).beganFrom).toBe(false);
});
