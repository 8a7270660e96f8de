import { describe, expect, it } from "vitest";
import type { FoundFace } from "../api/types";
import { choose, chooseForAll, defaultSettings, faceEdits, isWorthIt, presetOf, restoreInput, stripInput } from "./edits";

const face = (index: number): FoundFace => ({
  index,
  box: [0, 0, 10, 10],
  landmarks: [[1, 1]],
  confidence: 0.99,
  size_px: 10,
  sharpness: 3,
  roll_degrees: 0,
  orientation_unclear: false,
});
const all = { identity: true, parser: true };
const none = { identity: false, parser: false };
const photograph = { id: "job_1", faces: [face(0), face(1), face(2)], settings: defaultSettings, choices: {} };

describe("faceEdits", () => {
  it("sends a face back as it was found, with what was chosen for it alone", () => {
    const edits = faceEdits(photograph.faces, { 1: { skip: true, fidelity: 0.2 }, 2: { fidelity: 0, visibility: 0.5 } });
    expect(edits).toEqual([face(0), { ...face(1), skip: true }, { ...face(2), fidelity: 0, visibility: 0.5 }]);
  });
});

describe("restoreInput", () => {
  it("names the kept file, and asks for the mask", () => {
    expect(restoreInput(photograph, all)).toMatchObject({
      image: { job: "job_1", output: "input_image" },
      fidelity: 0.6,
      visibility: 1,
      upscale: 1,
      return_mask: true,
    });
  });
  it("leaves out what needs a network that is not loaded", () => {
    const settings = { ...defaultSettings, identity: "guard", mask: "parse" } as const;
    expect(restoreInput({ ...photograph, settings }, all)).toMatchObject({ identity: "guard", mask: "parse" });
    expect(restoreInput({ ...photograph, settings }, none)).not.toHaveProperty("identity");
    expect(restoreInput({ ...photograph, settings }, none)).not.toHaveProperty("mask");
  });
  it("looks for no faces where none were found, since an empty list would mean all", () => {
    const input = restoreInput({ ...photograph, faces: [], settings: { ...defaultSettings, upscale: 4 } }, all);
    expect(input).toMatchObject({ max_faces: 0, upscale: 4 });
    expect(input).not.toHaveProperty("faces");
  });
  it("restores all of many faces", () => {
    const faces = Array.from({ length: 90 }, (_, index) => face(index));
    expect(restoreInput({ ...photograph, faces }, all).max_faces).toBe(90);
    expect(restoreInput(photograph, all)).not.toHaveProperty("max_faces");
  });
});

describe("stripInput", () => {
  it("is about one face, without its choices", () => {
    expect(stripInput("job_1", face(2), all)).toMatchObject({ faces: [face(2)], identity: "report", return_crops: true });
    expect(stripInput("job_1", face(2), none)).not.toHaveProperty("identity");
  });
});

describe("choices", () => {
  it("are forgotten where nothing is left of them", () => {
    const skipped = choose({}, 1, { skip: true });
    expect(skipped).toEqual({ 1: { skip: true } });
    expect(choose(skipped, 1, { skip: false })).toEqual({});
    expect(choose({ 1: { fidelity: 0 } }, 1, { visibility: 0.5 })).toEqual({ 1: { fidelity: 0, visibility: 0.5 } });
    expect(choose({ 1: { fidelity: 0 } }, 1, { fidelity: undefined })).toEqual({});
  });
  it("of one face become those of all", () => {
    const chosen = { ...photograph, choices: { 0: { skip: true }, 1: { fidelity: 0.2 } } };
    expect(chooseForAll(chosen, 1)).toMatchObject({ settings: { fidelity: 0.2, visibility: 1 }, choices: {} });
    expect(chooseForAll(chosen, 0).choices).toEqual({ 0: { skip: true }, 1: { skip: true }, 2: { skip: true } });
  });
  it("know their preset", () => {
    expect(presetOf(defaultSettings)).toBe("balanced");
    expect(presetOf({ ...defaultSettings, fidelity: 0.65 })).toBeNull();
  });
  it("are worth a restoration if there is a face, or an enlargement", () => {
    expect(isWorthIt(photograph)).toBe(true);
    expect(isWorthIt({ ...photograph, faces: [] })).toBe(false);
    expect(isWorthIt({ ...photograph, faces: null })).toBe(false);
    expect(isWorthIt({ faces: [], settings: { ...defaultSettings, upscale: 2 } })).toBe(true);
  });
});
