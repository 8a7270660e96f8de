import { describe, expect, it } from "vitest";
import type { Job } from "../api/types";
import type { Photograph } from "../store/entries";
import { defaultSettings, restoreInput } from "./edits";
import { batchShare, type Mark, markOf, mayWorkAgain, sentenceOf } from "./mark";

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
const mark = (entry: Photograph, finding = found, restoring = nothing as typeof nothing | typeof found) =>
  markOf(entry, { finding, restoring, now: NOW });

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
    const error = { code: "internal", message: "no memory", fields: [] };
    expect(mark(asked, found, job({ status: "failed", error }))).toEqual({ kind: "failed", message: "no memory", code: "internal" });
    const refusal = { status: 413, code: "body_too_large", message: "too large", fields: [] };
    expect(mark({ ...photograph, refusal })).toEqual({ kind: "failed", message: "too large", code: "body_too_large" });
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

describe("markOf a restoration that has ended", () => {
  const done = (result: Job["result"]) => job({ status: "completed", expires_at: LATER, result: result ?? null });
  it("tells whether anything was restored", () => {
    expect(mark(asked, found, done({ faces: [{ restored: false }], upscale_applied: 1 }))).toEqual({ kind: "unchanged" });
    expect(mark(asked, found, done({ faces: [{ restored: false }], upscale_applied: 2 }))).toEqual({ kind: "restored" });
    expect(mark(asked, found, done({ faces: [{ restored: true }], upscale_applied: 1 }))).toEqual({ kind: "restored" });
  });
  it("tells whether something else has been chosen since", () => {
    const same = { ...asked, asked: restoreInput(asked) };
    const finished = job({ status: "completed", expires_at: LATER });
    expect(mark(same, found, finished)).toEqual({ kind: "restored" });
    expect(mark({ ...same, settings: { ...defaultSettings, upscale: 2 } }, found, finished)).toEqual({ kind: "changed" });
  });
});

describe("failures", () => {
  it("are told without the name of a field, and tried again only where that can help", () => {
    expect(sentenceOf({ message: "image: is animated", fields: [{ message: "is animated." }] })).toBe("Is animated.");
    expect(sentenceOf({ message: "out of memory", fields: [] })).toBe("out of memory");
    expect(mayWorkAgain("invalid_request")).toBe(false);
    expect(mayWorkAgain("service_unavailable")).toBe(true);
  });
});

describe("batchShare", () => {
  const of = (together: string | null, ...marks: Mark[]) => marks.map((each) => ({ mark: each, together }));
  it("is nothing where nothing is to be done", () => {
    expect(batchShare(of(null, { kind: "found", faces: 1 }))).toBeNull();
    expect(batchShare(of("a", { kind: "restored" }, { kind: "failed", message: "" }))).toBeNull();
  });
  it("counts what was asked for together, and not what was done before", () => {
    const before = of("a", { kind: "restored" }, { kind: "restored" });
    const now = of("b", { kind: "restored" }, { kind: "restoring", share: 0.5 }, { kind: "waiting" });
    expect(batchShare([...before, ...now, ...of(null, { kind: "found", faces: 1 })])).toEqual({ share: 0.5, done: 1, of: 3 });
  });
});
