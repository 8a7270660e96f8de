/** What a person has chosen for a photograph, and the request that says so. Pure: see `edits.test.ts`. */
import type { CompareInput, FaceEdit, FoundFace, RestoreInput } from "../api/types";
import type { FaceChoice, Photograph, PhotographSettings, Preset } from "../store/entries";

/** Fidelities of the presets for all faces. */
export const PRESETS: Readonly<Record<Preset, number>> = { gentle: 0.9, balanced: 0.6, strong: 0.3 };
/** What a face's strip shows. */
export const FIDELITIES: readonly number[] = [0, 0.25, 0.5, 0.75, 1];

/** The gateway restores no more faces of a photograph than this unless it is told to, and then up to MOST_FACES. */
const USUAL_FACES = 64;
const MOST_FACES = 256;

export const defaultSettings: PhotographSettings = {
  fidelity: PRESETS.balanced,
  visibility: 1,
  upscale: 1,
  identity: null,
  mask: "feather",
};

/** Networks of the restorer that options need. */
export interface Loaded {
  identity: boolean;
  parser: boolean;
}

export function presetOf({ fidelity }: PhotographSettings): Preset | null {
  return (Object.keys(PRESETS) as Preset[]).find((preset) => PRESETS[preset] === fidelity) ?? null;
}

/** Each face as it was found, with what was chosen for it alone. */
export function faceEdits(faces: readonly FoundFace[], choices: Photograph["choices"]): FaceEdit[] {
  return faces.map((face) => {
    const { skip, fidelity, visibility } = choices[face.index] ?? {};
    if (skip) return { ...face, skip };
    return {
      ...face,
      ...(fidelity === undefined ? {} : { fidelity }),
      ...(visibility === undefined ? {} : { visibility }),
    };
  });
}

type Asked = Pick<Photograph, "id" | "faces" | "settings" | "choices">;

/** The restoration of a photograph. What needs a network that is not loaded is left out. */
export function restoreInput({ id, faces, settings, choices }: Asked, loaded: Loaded): RestoreInput {
  const image = { job: id, output: "input_image" };
  const found = faces ?? [];
  if (found.length === 0) return { image, max_faces: 0, upscale: settings.upscale, return_mask: true };
  return {
    image,
    faces: faceEdits(found, choices),
    fidelity: settings.fidelity,
    visibility: settings.visibility,
    upscale: settings.upscale,
    ...(settings.identity === "guard" && loaded.identity ? { identity: "guard" } : {}),
    ...(settings.mask === "parse" && loaded.parser ? { mask: "parse" } : {}),
    ...(found.length > USUAL_FACES ? { max_faces: Math.min(MOST_FACES, found.length) } : {}),
    return_mask: true,
  };
}

/** One face at the fidelities of its strip, whatever has been chosen for it. */
export function stripInput(photograph: string, face: FoundFace, loaded: Loaded): CompareInput {
  return {
    image: { job: photograph, output: "input_image" },
    faces: [face],
    fidelities: [...FIDELITIES],
    return_crops: true,
    ...(loaded.identity ? { identity: "report" } : {}),
    output_format: "webp",
    quality: 80,
  };
}

/** Whether a restoration would do anything. */
export function isWorthIt({ faces, settings }: Pick<Photograph, "faces" | "settings">): boolean {
  return faces !== null && (faces.length > 0 || settings.upscale > 1);
}

/** Change what was chosen for one face; what is undefined is as for the whole photograph again. */
export function choose(choices: Photograph["choices"], index: number, change: FaceChoice): Photograph["choices"] {
  const { [index]: before, ...others } = choices;
  const after = { ...before, ...change };
  const given = Object.fromEntries(Object.entries(after).filter(([, value]) => value !== undefined && value !== false));
  return Object.keys(given).length === 0 ? others : { ...others, [index]: given };
}

/** Make what was chosen for one face what holds for all. */
export function chooseForAll<P extends Pick<Photograph, "faces" | "settings" | "choices">>(photograph: P, index: number): P {
  const choice = photograph.choices[index] ?? {};
  const { fidelity, visibility } = { ...photograph.settings, ...choice };
  const all = (photograph.faces ?? []).map((face) => [face.index, { skip: true }]);
  return {
    ...photograph,
    settings: { ...photograph.settings, fidelity, visibility },
    choices: choice.skip ? Object.fromEntries(all) : {},
  };
}
