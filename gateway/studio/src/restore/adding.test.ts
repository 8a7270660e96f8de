import { beforeEach, describe, expect, it, vi } from "vitest";
import { addPhotographs, arrivals, removeArrivals, retryArrivals, uploadHoldUp } from "./adding";
import { photographs } from "../store/entries";

const asked: string[] = [];
const answers: (() => Response)[] = [];
let release: (() => void) | null = null;

beforeEach(() => {
  asked.length = 0;
  answers.length = 0;
  removeArrivals(arrivals.value);
  uploadHoldUp.end();
  vi.stubGlobal("fetch", async (url: URL) => {
    asked.push(url.pathname);
    if (url.pathname.endsWith("/v1/jobs")) await new Promise<void>((resolve) => (release = resolve));
    return answers.shift()?.() ?? Response.json({ id: "job_1", status: "queued", outputs: [] });
  });
});

const picture = () => new File([new Uint8Array([0xff, 0xd8, 0xff, 0xe0])], "a.jpg");
const sent = () => vi.waitFor(() => expect(asked).toContain("/v1/jobs"));
const refusal = (status: number, seconds = "") =>
  Response.json({ error: { code: "x", message: "no", fields: [] } }, { status, headers: seconds ? { "Retry-After": seconds } : {} });

describe("addPhotographs", () => {
  it("leaves nothing with the gateway of what was removed while it was sent", async () => {
    addPhotographs([picture()]);
    await sent();
    removeArrivals(arrivals.value);
    release?.();
    await vi.waitFor(() => expect(asked).toContain("/v1/jobs/job_1/expire"));
    expect(photographs.value).toEqual([]);
  });
  it("holds no place while the gateway takes none, and says so", async () => {
    answers.push(() => refusal(429, "600"));
    addPhotographs([picture()]);
    await sent();
    release?.();
    await vi.waitFor(() => expect(uploadHoldUp.problem.value?.retryAfterSeconds).toBe(600));
    expect(arrivals.value.map(({ state }) => state)).toEqual(["waiting"]);
  });
  it("sends again what failed, and tells what cannot be sent at all", async () => {
    answers.push(() => refusal(500));
    addPhotographs([picture(), new File([], "empty.jpg")]);
    await sent();
    release?.();
    await vi.waitFor(() => expect(arrivals.value.map(({ state }) => state)).toEqual(["failed", "failed"]));
    expect(arrivals.value.map(({ unusable }) => unusable)).toEqual([null, "empty"]);
    asked.length = 0;
    retryArrivals(arrivals.value.slice(0, 1));
    await sent();
    release?.();
    await vi.waitFor(() => expect(photographs.value.map(({ fileName }) => fileName)).toEqual(["a.jpg"]));
  });
});
