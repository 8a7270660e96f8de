/** What the browser keeps of the page besides the entries: a few texts by name. It may refuse to keep anything. */
import { signal } from "@preact/signals";

/** The browser keeps nothing for this page (a private window, blocked site data): what is asked for is lost with it. */
export const nothingIsKept = signal(false);

/** `local`: for all windows, and for good. `session`: for this one. */
export type Kind = "local" | "session";

/** The mere name of a storage raises where site data is blocked. */
function storageOf(kind: Kind): Storage {
  return kind === "local" ? localStorage : sessionStorage;
}

/** What is kept under a name; null if nothing is. */
export function recall(name: string, kind: Kind = "local"): string | null {
  try {
    return storageOf(kind).getItem(name);
  } catch {
    nothingIsKept.value = true;
    return null;
  }
}

/** Keep a text; null: keep it no more. */
export function keep(name: string, text: string | null, kind: Kind = "local"): void {
  try {
    if (text === null) storageOf(kind).removeItem(name);
    else storageOf(kind).setItem(name, text);
  } catch {
    nothingIsKept.value = true;
  }
}

/** Learn what other windows keep under a name: null if nothing any more. */
export function whenKeptElsewhere(name: string, learn: (text: string | null) => void): void {
  addEventListener("storage", (event) => {
    if (event.key === name) learn(event.newValue);
    else if (event.key === null) learn(null); // all was cleared
  });
}
