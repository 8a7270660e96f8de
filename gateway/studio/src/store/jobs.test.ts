import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Job } from "../api/types";
import { type Answer, gateway, json, refusal } from "../testing/gateway";
import { isOver, jobState, watch } from "./jobs";

const job = (id: string, status: Job["status"]) => ({ id, status, outputs: [], progress: 0 }) as unknown as Job;
let number = 0;
let id = "";
let stop = () => {};

beforeEach(() => {
  vi.useFakeTimers();
  id = `job_${++number}`;
});
afterEach(() => {
  stop();
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

function follow(answer: Answer, live = true) {
  const asked = gateway(answer);
  stop = watch(id, live);
  return { asked, events: () => asked.filter(({ path }) => path.endsWith("/events")).length };
}

it("asks for a job whose events cannot be had", async () => {
  const { events } = follow(({ path }) => (path.endsWith("/events") ? refusal(500) : json(job(id, "in_progress"))));
  await vi.advanceTimersByTimeAsync(10_000);
  expect(jobState(id).value).toMatchObject({ offline: false, problem: null, job: { status: "in_progress" } });
  expect(events()).toBe(1);
  await vi.advanceTimersByTimeAsync(40_000);
  expect(events()).toBe(2); // they are tried again
});

it("asks for a job whose events say nothing for long", async () => {
  const { events } = follow(({ path }, signal) => {
    if (!path.endsWith("/events")) return json(job(id, "completed"));
    return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new DOMException("", "AbortError"))));
  });
  await vi.advanceTimersByTimeAsync(39_000);
  expect(jobState(id).value.job).toBeNull();
  await vi.advanceTimersByTimeAsync(2000);
  expect(jobState(id).value.job?.status).toBe("completed");
  expect(isOver(id)).toBe(true);
  expect(events()).toBe(1);
});

it("tells a gateway that is away from one that refuses", async () => {
  let answer: Answer = () => refusal(401);
  follow((...given) => answer(...given), false);
  await vi.advanceTimersByTimeAsync(1);
  expect(jobState(id).value).toMatchObject({ offline: false, problem: { status: 401 } });
  answer = () => {
    throw new TypeError("fetch failed");
  };
  await vi.advanceTimersByTimeAsync(4000);
  expect(jobState(id).value).toMatchObject({ offline: true, problem: null });
  answer = () => json(job(id, "completed"));
  await vi.advanceTimersByTimeAsync(2000);
  expect(jobState(id).value).toMatchObject({ offline: false, problem: null, job: { status: "completed" } });
});

it("forgets what nobody looks at, and nothing else", () => {
  gateway(() => json(job(id, "queued")));
  const looked = jobState(id);
  const end = looked.subscribe(() => undefined);
  const first = jobState("job_unused");
  for (let other = 0; other < 500; other += 1) jobState(`job_other_${other}`);
  expect(jobState(id)).toBe(looked);
  expect(jobState("job_unused")).not.toBe(first);
  end();
});
