/** The API key, where the gateway wants one. Kept in this browser only. */
import { signal } from "@preact/signals";
import { keep, recall, whenKeptElsewhere } from "./storage";

const NAME = "atelier.key";

/** Whether a text can be a key: what does not fit into a header of HTTP cannot be sent. */
export function canBeKey(text: string): boolean {
  return /^[\x20-\x7e\xa0-\xff]*$/.test(text.trim());
}

function fit(text: string | null): string {
  return text !== null && canBeKey(text) ? text.trim() : "";
}

export const apiKey = signal<string>(fit(recall(NAME)));
/** The gateway has refused a request for want of a valid key. */
export const keyIsMissing = signal(false);

/** Use a key from now on; empty: none. Return whether it can be one: if not, the one before stays. */
export function setApiKey(key: string): boolean {
  if (!canBeKey(key)) return false;
  apiKey.value = fit(key);
  keep(NAME, apiKey.value || null);
  return true;
}

whenKeptElsewhere(NAME, (text) => {
  if (fit(text) === apiKey.value) return;
  apiKey.value = fit(text);
  keyIsMissing.value = false; // until the gateway says otherwise
});
