import { expect, it } from "vitest";
import type { Job } from "../api/types";
import { countOf, effectOf, outcomeOf } from "./outcome";

const face = (restored: boolean) => ({ box: [1, 2, 3, 4], confidence: 0.9, restored, reason: restored ? null : "too_small" });
const one = { seed: 6, prompt: "a fox", final_resolution: "512x384", faces: [face(true)], warnings: ["small"] };
const jobOf = (result: object, status = "completed") => ({ type: "generate", status, result, outputs: [] }) as unknown as Job;

it("tells of each of several pictures", () => {
  const job = jobOf({ ...one, images: [one, { ...one, seed: 7, faces: [], face_restoration_reason: "no_face" }] });
  expect(countOf(job, null, 0)).toBe(2);
  expect(outcomeOf(job, 1)).toMatchObject({ seed: 7, width: 512, height: 384, restorationReason: "no_face" });
  expect(outcomeOf(job, 0)?.seed).toBe(6);
});

it("tells nothing before the end", () => {
  expect(outcomeOf(jobOf(one, "in_progress"), 0)).toBeNull();
  expect(countOf(jobOf({}, "in_progress"), { num_images: 3 }, 0)).toBe(3);
  expect(countOf(null, null, 2)).toBe(2);
});

it("tells nothing of what is no drawing", () => {
  const found = { ...jobOf({ faces: [], width: 10 }), type: "detect" } as Job;
  expect(outcomeOf(found, 0)).toBeNull();
  expect(countOf(found, null, 0)).toBe(1);
});

it("says whether the fidelity acts, and why not", () => {
  const outcome = outcomeOf(jobOf(one), 0);
  expect(effectOf(outcome, {}, true)).toBe("acts");
  expect(effectOf(outcome, { use_face_restoration: false }, false)).toBe("no-drawing");
  expect(effectOf(null, {}, false)).toBe("later");
  expect(effectOf(outcomeOf(jobOf({ ...one, faces: [face(false)] }), 0), {}, true)).toBe("no-face");
});
