import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Problem } from "../api/problem";
import type { Job } from "../api/types";
import { type Answer, type Asked, gateway, json, refusal } from "../testing/gateway";
import { deleteEntry, jobsOf, noteDeleted, recordJob } from "./deleting";
import { type Creation, entryOf, type Photograph, putEntry, removeEntry } from "./entries";
import { jobState } from "./jobs";

const job = (id: string) => ({ id, status: "completed", outputs: [] }) as unknown as Job;
const BASE = { createdAt: 0, expiresAt: null, thumbnail: null };
let number = 0;
let creation: Creation;
let answer: Answer;
let asked: Asked[];

beforeEach(() => {
  creation = { ...BASE, kind: "creation", id: `job_drawing_${++number}`, input: {} };
  answer = () => json({});
  asked = gateway((...given) => answer(...given));
});
afterEach(() => vi.unstubAllGlobals());

const deleted = () => asked.flatMap(({ path }) => /\/v1\/jobs\/(.*)\/expire$/.exec(path)?.[1] ?? []);

it("knows all jobs of an entry, also of one from before they were recorded", () => {
  expect(jobsOf(creation)).toEqual([creation.id]);
  const photograph = {
    ...{ ...BASE, kind: "photograph", id: "job_found", made: ["job_first", "job_second"] },
    ...{ restoration: "job_second", lookingAgain: "job_again", strips: { 0: "job_strip" } },
  } as unknown as Photograph;
  expect(jobsOf(photograph)).toEqual(["job_first", "job_second", "job_again", "job_strip", "job_found"]);
});

it("deletes everything that was recorded, and then the entry", async () => {
  await putEntry(creation);
  await recordJob(creation.id, job(`job_a${number}`));
  await recordJob(creation.id, job(`job_b${number}`));
  await recordJob(creation.id, job(`job_a${number}`));
  expect(entryOf(creation.id)?.made).toEqual([`job_a${number}`, `job_b${number}`]);
  await deleteEntry(creation);
  expect(deleted()).toEqual([`job_a${number}`, `job_b${number}`, creation.id]);
  expect(entryOf(creation.id)).toBeNull();
});

it("keeps the entry while the gateway cannot be asked, and goes on from there", async () => {
  await putEntry(creation);
  await recordJob(creation.id, job(`job_c${number}`));
  answer = ({ path }) => (path.includes(creation.id) ? refusal(503) : json({}));
  await expect(deleteEntry(creation)).rejects.toBeInstanceOf(Problem);
  expect(entryOf(creation.id)).not.toBeNull();
  answer = ({ path }) => (path.includes(creation.id) ? refusal(410) : json({})); // deleted already is no error
  await deleteEntry(creation);
  expect(deleted().filter((id) => id === `job_c${number}`)).toHaveLength(1);
  expect(entryOf(creation.id)).toBeNull();
});

it("deletes what is made for an entry that was deleted in the meantime", async () => {
  await putEntry(creation);
  await deleteEntry(creation);
  expect(await recordJob(creation.id, job("job_late"))).toBe(false);
  expect(deleted()).toEqual([creation.id, "job_late"]);
});

it("deletes what was recorded while the others were being deleted", async () => {
  await putEntry(creation);
  answer = async ({ path }) => {
    if (path.includes(creation.id)) await recordJob(creation.id, job(`job_d${number}`));
    return json({});
  };
  await deleteEntry(creation);
  expect(deleted()).toContain(`job_d${number}`);
});

it("knows that what another window has deleted is gone", async () => {
  const end = noteDeleted();
  await putEntry({ ...creation, made: ["job_variant"] });
  await removeEntry(creation.id); // as if read from the database
  await Promise.resolve();
  expect([creation.id, "job_variant"].map((id) => jobState(id).value.gone)).toEqual([true, true]);
  end();
});
