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
  format: null,
};

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

/** The restoration of a photograph: all that was chosen. What the restorer cannot do, the gateway refuses. */
export function restoreInput({ id, faces, settings, choices }: Asked): RestoreInput {
  const image = { job: id, output: "input_image" };
  const found = faces ?? [];
  const format = settings.format ? { output_format: settings.format } : {};
  if (found.length === 0) return { image, max_faces: 0, upscale: settings.upscale, ...format, return_mask: true };
  return {
    image,
    faces: faceEdits(found, choices),
    fidelity: settings.fidelity,
    visibility: settings.visibility,
    upscale: settings.upscale,
    ...format,
    ...(settings.identity === "guard" ? { identity: "guard" } : {}),
    ...(settings.mask === "parse" ? { mask: "parse" } : {}),
    ...(found.length > USUAL_FACES ? { max_faces: Math.min(MOST_FACES, found.length) } : {}),
    return_mask: true,
  };
}

/** One face at the fidelities of its strip, whatever has been chosen for it; how alike, where that can be measured. */
export function stripInput(photograph: string, face: FoundFace): CompareInput {
  return {
    image: { job: photograph, output: "input_image" },
    faces: [face],
    fidelities: [...FIDELITIES],
    return_crops: true,
    output_format: "webp",
    quality: 80,
  };
}

/** Whether a restoration would do anything: enlarge, or change a face. */
export function isWorthIt({ faces, settings, choices }: Pick<Photograph, "faces" | "settings" | "choices">): boolean {
  if (faces === null) return false;
  if (settings.upscale > 1) return true;
  return faces.some(({ index }) => {
    const { skip, visibility } = choices[index] ?? {};
    return !skip && (visibility ?? settings.visibility) > 0;
  });
}

/** Whether something else is chosen now than what the restoration was asked for with. */
export function isChanged(photograph: Asked & Pick<Photograph, "asked">): boolean {
  return photograph.asked !== undefined && JSON.stringify(photograph.asked) !== JSON.stringify(restoreInput(photograph));
}

/** Media types of which every file holds its pixels exactly. */
const LOSSLESS = ["image/png"];

/** Whether a file made in this format, at this scale, keeps what was not restored to the pixel. */
export function isExact(mediaType: string | undefined, upscale: number): boolean {
  return upscale <= 1 && mediaType !== undefined && LOSSLESS.includes(mediaType);
}

/** Change what was chosen for one face; what is undefined is as for the whole photograph again. */
export function choose(choices: Photograph["choices"], index: number, change: FaceChoice): Photograph["choices"] {
  const { [index]: before, ...others } = choices;
  const after = { ...before, ...change };
  const given = Object.fromEntries(Object.entries(after).filter(([, value]) => value !== undefined && value !== false));
  return Object.keys(given).length === 0 ? others : { ...others, [index]: given };
}

/** Faces by rows from the top, and within a row from the left: the order in which Tab goes through them. */
export function inReadingOrder(faces: readonly FoundFace[]): FoundFace[] {
  const middle = ({ box: [, top = 0, , bottom = 0] }: FoundFace) => (top + bottom) / 2;
  const rows: FoundFace[][] = [];
  for (const face of [...faces].sort((a, b) => middle(a) - middle(b))) {
    const first = rows.at(-1)?.[0];
    const isSameRow = first !== undefined && middle(face) < (first.box[3] ?? 0);
    if (isSameRow) rows.at(-1)?.push(face);
    else rows.push([face]);
  }
  return rows.flatMap((row) => row.sort((a, b) => (a.box[0] ?? 0) - (b.box[0] ?? 0)));
}

/** Make what was chosen for one face what holds for all. Faces that are left as they are stay so. */
export function chooseForAll<P extends Pick<Photograph, "faces" | "settings" | "choices">>(photograph: P, index: number): P {
  const choice = photograph.choices[index] ?? {};
  const { fidelity, visibility } = { ...photograph.settings, ...choice };
  const isSkipped = (each: number) => choice.skip === true || photograph.choices[each]?.skip === true;
  const skipped = (photograph.faces ?? []).filter((face) => isSkipped(face.index)).map((face) => [face.index, { skip: true }]);
  return {
    ...photograph,
    settings: { ...photograph.settings, fidelity, visibility },
    choices: Object.fromEntries(skipped),
  };
}
