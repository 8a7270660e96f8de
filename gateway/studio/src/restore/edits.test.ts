import { describe, expect, it } from "vitest";
import type { FoundFace } from "../api/types";
import {
  choose,
  chooseForAll,
  defaultSettings,
  faceEdits,
  inReadingOrder,
  isChanged,
  isExact,
  isWorthIt,
  presetOf,
  restoreInput,
  stripInput,
} from "./edits";

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
const photograph = { id: "job_1", faces: [face(0), face(1), face(2)], settings: defaultSettings, choices: {} };

describe("faceEdits", () => {
  it("sends a face back as it was found, with what was chosen for it alone", () => {
    const edits = faceEdits(photograph.faces, { 1: { skip: true, fidelity: 0.2 }, 2: { fidelity: 0, visibility: 0.5 } });
    expect(edits).toEqual([face(0), { ...face(1), skip: true }, { ...face(2), fidelity: 0, visibility: 0.5 }]);
  });
});

describe("restoreInput", () => {
  it("names the kept file, and asks for the mask", () => {
    expect(restoreInput(photograph)).toMatchObject({
      image: { job: "job_1", output: "input_image" },
      fidelity: 0.6,
      visibility: 1,
      upscale: 1,
      return_mask: true,
    });
  });
  it("sends what was chosen, whatever is loaded: the gateway refuses what it cannot do", () => {
    const settings = { ...defaultSettings, identity: "guard", mask: "parse", format: "png" } as const;
    const input = restoreInput({ ...photograph, settings });
    expect(input).toMatchObject({ identity: "guard", mask: "parse", output_format: "png" });
    expect(restoreInput(photograph)).not.toHaveProperty("output_format");
  });
  it("looks for no faces where none were found, since an empty list would mean all", () => {
    const input = restoreInput({ ...photograph, faces: [], settings: { ...defaultSettings, upscale: 4 } });
    expect(input).toMatchObject({ max_faces: 0, upscale: 4 });
    expect(input).not.toHaveProperty("faces");
  });
  it("restores all of many faces", () => {
    const faces = Array.from({ length: 90 }, (_, index) => face(index));
    expect(restoreInput({ ...photograph, faces }).max_faces).toBe(90);
    expect(restoreInput(photograph)).not.toHaveProperty("max_faces");
  });
});

describe("stripInput", () => {
  it("is about one face, without its choices", () => {
    expect(stripInput("job_1", face(2))).toMatchObject({ faces: [face(2)], return_crops: true });
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
    const ofOne = chooseForAll(chosen, 1);
    expect(ofOne.settings).toMatchObject({ fidelity: 0.2, visibility: 1 });
    expect(ofOne.choices).toEqual({ 0: { skip: true } }); // what is left as it is stays so
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
    expect(isWorthIt({ faces: [], choices: {}, settings: { ...defaultSettings, upscale: 2 } })).toBe(true);
    const skipped = { 0: { skip: true }, 1: { skip: true }, 2: { visibility: 0 } };
    expect(isWorthIt({ ...photograph, choices: skipped })).toBe(false);
    expect(isWorthIt({ ...photograph, choices: { ...skipped, 2: {} } })).toBe(true);
  });
  it("are others than those of the restoration", () => {
    const asked = restoreInput(photograph);
    expect(isChanged({ ...photograph, asked })).toBe(false);
    expect(isChanged({ ...photograph, asked, settings: { ...defaultSettings, fidelity: 0.9 } })).toBe(true);
    expect(isChanged({ ...photograph, asked, choices: { 1: { skip: true } } })).toBe(true);
    expect(isChanged({ ...photograph, settings: { ...defaultSettings, fidelity: 0.9 } })).toBe(false);
  });
});

describe("isExact", () => {
  it("is only what is saved without loss, at its own size", () => {
    expect(isExact("image/png", 1)).toBe(true);
    expect(isExact("image/png", 2)).toBe(false);
    expect(isExact("image/jpeg", 1)).toBe(false);
    expect(isExact(undefined, 1)).toBe(false);
  });
});

describe("inReadingOrder", () => {
  it("goes by rows, though heads are not level", () => {
    const at = (index: number, x: number, y: number) => ({ ...face(index), box: [x, y, x + 10, y + 10] as FoundFace["box"] });
    const faces = [at(0, 50, 3), at(1, 0, 40), at(2, 0, 0), at(3, 20, 4)];
    expect(inReadingOrder(faces).map(({ index }) => index)).toEqual([2, 3, 0, 1]);
  });
});
