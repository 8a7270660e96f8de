import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Job } from "../api/types";
import { entryOf, type Photograph, putEntry } from "../store/entries";
import { defaultSettings } from "./edits";
import { restore, sendWaiting } from "./queue";

const sent: { key: string; type: string }[] = [];
const answers: (() => Response)[] = [];
const accepted = () => Response.json({ id: `job_r${sent.length}`, status: "queued", outputs: [] } as Partial<Job>);

beforeEach(() => {
  sent.length = 0;
  answers.length = 0;
  vi.stubGlobal("fetch", (_: URL, { headers, body }: { headers: HeadersInit; body: string }) => {
    sent.push({ key: new Headers(headers).get("Idempotency-Key") ?? "", type: JSON.parse(body).type });
    return Promise.resolve((answers.shift() ?? accepted)());
  });
});

async function added(id: string): Promise<Photograph> {
  const face = { index: 0, box: [0, 0, 9, 9], landmarks: [], confidence: 1 };
  const photograph = {
    kind: "photograph",
    id,
    createdAt: 0,
    expiresAt: null,
    thumbnail: null,
    fileName: "a.png",
    batch: "b",
    width: 9,
    height: 9,
    faces: [face],
    settings: defaultSettings,
    choices: {},
    restoration: null,
  } as unknown as Photograph;
  await putEntry(photograph);
  return photograph;
}

const kept = (id: string) => entryOf(id) as Photograph;

describe("restore", () => {
  it("sends the key that is kept, and once", async () => {
    const photograph = await added("job_1");
    await restore([photograph]);
    const key = kept("job_1").wanted?.key;
    expect(key).toMatch(/^[0-9a-f]{32}$/);
    await restore([photograph]); // a second click
    expect(kept("job_1").wanted?.key).toBe(key);
    sendWaiting();
    await vi.waitFor(() => expect(kept("job_1").restoration).toBe("job_r1"));
    expect(sent).toEqual([{ key, type: "restore" }]);
    expect(kept("job_1")).toMatchObject({ wanted: null, made: ["job_r1"], asked: { upscale: 1 } });
  });
  it("keeps why it was refused in the entry", async () => {
    const photograph = await added("job_2");
    await restore([photograph]);
    answers.push(() => Response.json({ error: { code: "invalid_request", message: "no" } }, { status: 422 }));
    sendWaiting();
    await vi.waitFor(() => expect(kept("job_2").refusal).toMatchObject({ status: 422, message: "no" }));
    expect(kept("job_2").wanted).toBeNull();
  });
});
