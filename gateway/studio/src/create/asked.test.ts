import { expect, it } from "vitest";
import { Keys } from "./asked";

const MINUTE = 60_000;

function counting(): Keys {
  let count = 0;
  return new Keys(() => `key ${++count}`);
}

it("has a new key for every request", () => {
  const keys = counting();
  expect([keys.of({ prompt: "a fox" }), keys.of({ prompt: "a fox" })]).toEqual(["key 1", "key 2"]);
});

it("sends the very same with the same key, as long as nobody knows whether there is a job", () => {
  const keys = counting();
  const input = { prompt: "a fox" };
  keys.unanswered({ key: "lost", input }, 0);
  expect(keys.of({ prompt: "a fox" }, MINUTE)).toBe("lost");
  expect(keys.of({ prompt: "a hare" }, MINUTE)).toBe("key 1");
  expect(keys.of(input, 11 * MINUTE)).toBe("key 2");
  keys.answered();
  expect(keys.of(input, MINUTE)).toBe("key 3");
});
