/** What screen readers are told in passing, and everybody for a few seconds at the foot of the page. */
import { signal } from "@preact/signals";

export interface Announcement {
  id: number;
  text: string;
  kind: "info" | "error";
}

const SHOWN_MS = 6000;
let count = 0;

export const announcements = signal<readonly Announcement[]>([]);
/** Read aloud only: progress, which is on the screen anyway. */
export const murmur = signal("");

export function announce(text: string, kind: Announcement["kind"] = "info"): void {
  const id = ++count;
  const others = announcements.value.filter((each) => each.text !== text); // said twice, it is read once
  announcements.value = [...others.slice(-2), { id, text, kind }];
  setTimeout(() => dismiss(id), kind === "error" ? 2 * SHOWN_MS : SHOWN_MS);
}

export function dismiss(id: number): void {
  announcements.value = announcements.value.filter((each) => each.id !== id);
}

/** Say something to screen readers alone. */
export function say(text: string): void {
  if (murmur.value !== text) murmur.value = text;
}
