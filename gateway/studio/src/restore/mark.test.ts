import { describe, expect, it } from "vitest";
import type { Job } from "../api/types";
import type { Photograph } from "../store/entries";
import { defaultSettings } from "./edits";
import { batchShare, markOf } from "./mark";

const NOW = Date.parse("2026-01-01T12:00:00Z");
const LATER = "2026-01-01T12:30:00Z";
const EARLIER = "2026-01-01T11:30:00Z";
const job = (fields: Partial<Job>) => ({ job: { progress: 0, ...fields } as Job, gone: false });
const nothing = { job: null, gone: false };
const gone = { job: null, gone: true };
const found = job({ status: "completed", expires_at: LATER });
const photograph: Photograph = {
  kind: "photograph",
  id: "job_1",
  createdAt: 0,
  expiresAt: null,
  thumbnail: null,
  fileName: "a.png",
  batch: "b",
  width: 10,
  height: 10,
  faces: [],
  settings: defaultSettings,
  choices: {},
  restoration: null,
};
const asked = { ...photograph, restoration: "job_2" };
const mark = (entry: Photograph, finding = found, restoring = nothing as typeof nothing | typeof found, refused = "") =>
  markOf(entry, { finding, restoring, refused, now: NOW });

describe("markOf", () => {
  it("follows a photograph from its arrival to its end", () => {
    expect(mark({ ...photograph, faces: null }, job({ status: "queued" }))).toEqual({ kind: "finding" });
    expect(mark(photograph)).toEqual({ kind: "found", faces: 0 });
    const wanted = { key: "k", input: { image: { job: "job_1", output: "input_image" } } };
    expect(mark({ ...asked, wanted }, found, job({ status: "completed" }))).toEqual({ kind: "waiting" });
    expect(mark(asked)).toEqual({ kind: "restoring", share: 0 });
    expect(mark(asked, found, job({ status: "in_progress", progress: 0.4 }))).toEqual({ kind: "restoring", share: 0.4 });
    expect(mark(asked, found, job({ status: "completed", expires_at: LATER }))).toEqual({ kind: "restored" });
  });
  it("says what failed, and why", () => {
    const error = { code: "internal", message: "no memory" } as Job["error"];
    expect(mark(asked, found, job({ status: "failed", error: error ?? null }))).toEqual({ kind: "failed", message: "no memory" });
    expect(mark(photograph, found, nothing, "too large")).toEqual({ kind: "failed", message: "too large" });
    expect(mark(asked, found, job({ status: "cancelled" }))).toEqual({ kind: "cancelled" });
  });
  it("knows what has expired: by its time, or because the gateway says so", () => {
    const old = job({ status: "completed", expires_at: EARLIER });
    expect(mark(photograph, old)).toEqual({ kind: "expired" });
    expect(markOf(photograph, { finding: gone, restoring: nothing, now: NOW })).toEqual({ kind: "expired" });
    expect(mark(asked, old, job({ status: "completed", expires_at: LATER }))).toEqual({ kind: "restored" });
    expect(mark(asked, found, old)).toEqual({ kind: "found", faces: 0 });
  });
});

describe("batchShare", () => {
  it("counts what was asked for, as long as something of it is to be done", () => {
    expect(batchShare([{ kind: "found", faces: 1 }])).toBeNull();
    expect(batchShare([{ kind: "restored" }, { kind: "failed", message: "" }])).toBeNull();
    expect(
      batchShare([{ kind: "restored" }, { kind: "restoring", share: 0.5 }, { kind: "waiting" }, { kind: "found", faces: 1 }]),
    ).toEqual({ share: 0.5, done: 1, of: 3 });
  });
});
