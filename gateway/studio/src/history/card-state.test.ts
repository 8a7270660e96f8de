import { describe, expect, it } from "vitest";
import type { Job } from "../api/types";
import type { Creation, Photograph } from "../store/entries";
import { byDay, cardStateOf, daysAgo, jobsToFollow } from "./card-state";

const creation: Creation = {
  kind: "creation",
  id: "job_1",
  createdAt: 0,
  expiresAt: null,
  thumbnail: null,
  input: { prompt: "a woman" },
};
const photograph: Photograph = {
  kind: "photograph",
  id: "job_2",
  createdAt: 0,
  expiresAt: null,
  thumbnail: null,
  fileName: "grandmother.jpg",
  batch: "1",
  width: 10,
  height: 10,
  faces: null,
  settings: { fidelity: 0.6, visibility: 1, upscale: 1, identity: null, mask: "feather" },
  choices: {},
  restoration: null,
};

function job(values: Partial<Job>): Job {
  return { id: "job_1", object: "job", type: "generate", status: "completed", progress: 1, attempts: 1, ...values } as Job;
}

describe("the state of a card", () => {
  it("is unknown before the gateway has answered, and expired once it has forgotten the job", () => {
    expect(cardStateOf(creation, { job: null, gone: false })).toEqual({ kind: "unknown" });
    expect(cardStateOf(creation, { job: job({}), gone: true })).toEqual({ kind: "expired" });
  });

  it("is active until the job has ended", () => {
    expect(cardStateOf(creation, { job: job({ status: "queued" }), gone: false }).kind).toBe("active");
    expect(cardStateOf(creation, { job: job({ status: "in_progress" }), gone: false }).kind).toBe("active");
    expect(cardStateOf(creation, { job: job({ status: "cancelled" }), gone: false }).kind).toBe("canceled");
  });

  it("says why a job has failed", () => {
    const failed = job({ status: "failed", error: { code: "x", message: "No memory." } as Job["error"] });
    expect(cardStateOf(creation, { job: failed, gone: false })).toEqual({ kind: "failed", message: "No memory." });
  });

  it("counts faces: those found, then those restored", () => {
    const found = job({ result: { faces: [{}, {}] } });
    expect(cardStateOf(photograph, { job: found, gone: false })).toEqual({ kind: "found", faces: 2 });
    const restored = job({ result: { faces: [{ restored: true }, { restored: false }, { restored: true }] } });
    const state = cardStateOf({ ...photograph, restoration: "job_3" }, { job: restored, gone: false });
    expect(state).toMatchObject({ kind: "done", restored: 2, faces: 3 });
  });
});

it("follows jobs that have not ended, a limited number", () => {
  const over = new Set(["b"]);
  expect(jobsToFollow(["a", "b", "c", "d"], (id) => over.has(id), 2)).toEqual(["a", "c"]);
});

it("groups by day, newest first", () => {
  const at = (day: number, hour: number): Creation => ({
    ...creation,
    createdAt: new Date(2026, 2, day, hour).getTime(),
  });
  const days = byDay([at(30, 9), at(29, 23), at(29, 1), at(2, 12)]);
  expect(days.map((day) => day.entries.length)).toEqual([1, 2, 1]);
});

it("counts days across a change of the clocks", () => {
  const now = new Date(2026, 2, 30, 0, 30).getTime(); // in Europe a day of 23 hours ended half an hour ago
  expect(daysAgo(new Date(2026, 2, 30).getTime(), now)).toBe(0);
  expect(daysAgo(new Date(2026, 2, 29).getTime(), now)).toBe(1);
});
