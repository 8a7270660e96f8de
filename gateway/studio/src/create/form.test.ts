import { describe, expect, it } from "vitest";
import { DEFAULTS, fromInput, readForm, shapeOf, sizeOf, toInput } from "./form";

describe("toInput", () => {
  it("sends no field that was left empty", () => {
    expect(toInput({ ...DEFAULTS, prompt: " a fox " })).toEqual({
      prompt: "a fox",
      width: 1024,
      height: 1024,
      hires_fix: false,
      use_refiner: true,
      use_face_restoration: true,
      face_restoration_weight: 0.6,
    });
  });

  it("leaves what is no number to the gateway, and reads a decimal comma", () => {
    const input = toInput({ ...DEFAULTS, width: "wide", guidance: "7,5", seed: "0" });
    expect(input).toMatchObject({ width: "wide", guidance_scale: 7.5, seed: 0 });
  });

  it("takes nothing but decimals for numbers", () => {
    const form = { ...DEFAULTS, seed: "0x10", steps: "1e1", guidance: ".5", width: "Infinity" };
    const read = { seed: "0x10", num_inference_steps: 10, guidance_scale: 0.5, width: "Infinity" };
    expect(toInput(form)).toMatchObject(read);
  });

  it("sends no fidelity where no face is restored", () => {
    expect(toInput({ ...DEFAULTS, restoreFaces: false })).not.toHaveProperty("face_restoration_weight");
  });
});

describe("fromInput", () => {
  it("is the inverse of toInput", () => {
    const form = {
      ...DEFAULTS,
      prompt: "a fox",
      negativePrompt: "blur",
      weighted: true,
      width: "832",
      height: "1216",
      fidelity: 0.35,
      hires: true,
      pictures: 3,
      seed: "7",
      steps: "12",
      guidance: "5.5",
      sampler: "dpmpp_2m",
      schedule: "karras",
      refiner: false,
      upscale: 2 as const,
      others: { loras: [{ name: "ink", weight: 0.8 }] },
    };
    expect(fromInput(toInput(form))).toEqual(form);
  });

  it("keeps what it has no field for, unless it is a default", () => {
    const request = { prompt: "a fox", refiner_strength: 0.3, use_realesrgan: false, match_tone: true };
    const form = fromInput(request);
    expect(form.others).toEqual({ use_realesrgan: false, match_tone: true });
    expect(toInput(form)).toMatchObject({ use_realesrgan: false, match_tone: true });
  });

  it("takes the gateway's random seed as none", () => {
    expect(fromInput({ prompt: "a fox", seed: -1 }).seed).toBe("");
  });
});

describe("the kept form", () => {
  it("is read as it was, and by its defaults where it is not of its kind", () => {
    expect(readForm(JSON.stringify({ ...DEFAULTS, prompt: "a fox", fidelity: "high" }))).toEqual({
      ...DEFAULTS,
      prompt: "a fox",
    });
    expect(readForm("no JSON")).toEqual(DEFAULTS);
    expect(readForm(null)).toEqual(DEFAULTS);
  });
});

it("knows shapes by their sizes", () => {
  expect(shapeOf({ width: "832", height: "1216" })).toBe("portrait");
  expect(shapeOf({ width: "832", height: "832" })).toBeNull();
});

it("knows the finished picture's size", () => {
  expect(sizeOf({ width: 1024, height: 768, hires_fix: true, upscale: 2 })).toEqual({ width: 3072, height: 2304 });
});
