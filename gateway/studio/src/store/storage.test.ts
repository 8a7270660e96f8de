import { afterEach, beforeEach, expect, it, vi } from "vitest";

const blocked = {
  get: () => {
    throw new DOMException("The operation is insecure.", "SecurityError");
  },
  configurable: true,
};
const own = Object.getOwnPropertyDescriptor(globalThis, "localStorage");

beforeEach(() => {
  vi.resetModules();
  localStorage.clear();
});
afterEach(() => {
  if (own) Object.defineProperty(globalThis, "localStorage", own);
});

it("keeps texts by name", async () => {
  const { keep, nothingIsKept, recall } = await import("./storage");
  keep("a", "text");
  expect(recall("a")).toBe("text");
  keep("a", null);
  expect(recall("a")).toBeNull();
  expect(nothingIsKept.value).toBe(false);
});

it("gives the page its usual look and no key where site data is blocked, and says so", async () => {
  Object.defineProperty(globalThis, "localStorage", blocked);
  const { chooseTheme, theme } = await import("./appearance");
  const { apiKey, setApiKey } = await import("./key");
  const { entriesAreLost } = await import("./entries");
  expect([theme.value, apiKey.value]).toEqual(["auto", ""]);
  chooseTheme("dark");
  setApiKey("secret");
  expect([theme.value, apiKey.value, entriesAreLost.value]).toEqual(["dark", "secret", true]);
});

it("learns what another window has chosen", async () => {
  const { language, theme } = await import("./appearance");
  const { apiKey } = await import("./key");
  const tell = (key: string | null, newValue: string | null) => dispatchEvent(new StorageEvent("storage", { key, newValue }));
  tell("atelier.theme", "dark");
  tell("atelier.language", "de");
  tell("atelier.key", "secret");
  expect([theme.value, language.value, apiKey.value]).toEqual(["dark", "de", "secret"]);
  tell(null, null);
  expect([theme.value, apiKey.value]).toEqual(["auto", ""]);
});
