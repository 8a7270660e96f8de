/** The API key, where the gateway wants one. Kept in this browser only. */
import { signal } from "@preact/signals";

const NAME = "atelier.key";

export const apiKey = signal<string>(localStorage.getItem(NAME) ?? "");
/** The gateway has refused a request for want of a valid key. */
export const keyIsMissing = signal(false);

export function setApiKey(key: string): void {
  apiKey.value = key.trim();
  if (apiKey.value) localStorage.setItem(NAME, apiKey.value);
  else localStorage.removeItem(NAME);
}
