import { expect, it } from "vitest";
import type { Job } from "../api/types";
import type { Creation } from "./entries";
import { expiryOf, isStale } from "./keeping";

const DAY = 24 * 3600 * 1000;
const NOW = 100 * DAY;

function asked(daysAgo: number, expiresAt: number | null): Creation {
  return { kind: "creation", id: "job_1", createdAt: NOW - daysAgo * DAY, expiresAt, thumbnail: null, input: {} };
}

it("keeps what has expired for a week, and what has not for as long as the gateway does", () => {
  expect(isStale(asked(6, NOW - 5 * DAY), true, NOW)).toBe(false);
  expect(isStale(asked(9, NOW - 8 * DAY), false, NOW)).toBe(true);
  expect(isStale(asked(9, NOW - 6 * DAY), true, NOW)).toBe(false); // a week after it has expired
  expect(isStale(asked(8, NOW + DAY), false, NOW)).toBe(false);
  expect(isStale(asked(8, null), false, NOW)).toBe(false);
  expect(isStale(asked(8, null), true, NOW)).toBe(true);
});

it("reads when a job expires", () => {
  expect(expiryOf({ expires_at: "1970-01-01T00:00:01Z" } as Job)).toBe(1000);
  expect(expiryOf({ expires_at: null } as Job)).toBeNull();
});
