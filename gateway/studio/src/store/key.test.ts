import { afterEach, expect, it, vi } from "vitest";
import { checkKey } from "../api/client";
import { gateway, json } from "../testing/gateway";
import { apiKey, canBeKey, setApiKey } from "./key";

afterEach(() => {
  setApiKey("");
  vi.unstubAllGlobals();
});

it("takes what can be sent in a header, and nothing else", () => {
  expect(setApiKey("  secret-1 ")).toBe(true);
  expect(apiKey.value).toBe("secret-1");
  for (const text of ["se\u2026ret", "\u201csecret\u201d", "se\ncret", "\u{1f511}"]) {
    expect(canBeKey(text)).toBe(false);
    expect(setApiKey(text)).toBe(false);
  }
  expect(apiKey.value).toBe("secret-1");
  expect(setApiKey("schl\u00fcssel")).toBe(true);
});

it("is sent with each request", async () => {
  const asked = gateway(() => json({}));
  setApiKey("secret");
  await checkKey();
  expect(asked[0]?.headers.get("authorization")).toBe("Bearer secret");
});
