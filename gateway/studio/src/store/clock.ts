/** What time it is, for texts such as "deleted in 40 minutes". */
import { signal } from "@preact/signals";

const EVERY_MS = 20_000;

/** Milliseconds since 1970, at most 20 s old. */
export const now = signal(Date.now());

setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, EVERY_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) now.value = Date.now();
});
