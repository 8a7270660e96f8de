/** Follows the jobs of the cards in view, and of no others. */
import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { now } from "../store/clock";
import { entryOf } from "../store/entries";
import { ask, isOver, jobState, watch } from "../store/jobs";
import { mainJobOf } from "../store/keeping";
import { jobsToFollow } from "./card-state";

const MOST = 20;

/** IDs of the entries whose cards are on the screen. */
const inView = signal<ReadonlySet<string>>(new Set());

/** Whether the element of an entry's card is on the screen is noted while it is there. */
export function useInView(id: string) {
  const element = useRef<HTMLLIElement>(null);
  useEffect(() => {
    if (!element.current) return undefined;
    const note = (isThere: boolean) => {
      if (inView.peek().has(id) === isThere) return;
      const changed = new Set(inView.peek());
      if (isThere) changed.add(id);
      else changed.delete(id);
      inView.value = changed;
    };
    const observer = new IntersectionObserver((seen) => note(seen.at(-1)?.isIntersecting ?? false), {
      rootMargin: "200px",
    });
    observer.observe(element.current);
    return () => {
      observer.disconnect();
      note(false);
    };
  }, [id]);
  return element;
}

/** Follow jobs until the returned function is called. */
export function followInView(): () => void {
  const following = new Map<string, () => void>();
  const end = effect(() => {
    const jobs = [...inView.value].flatMap((id) => {
      const entry = entryOf(id);
      return entry ? [mainJobOf(entry)] : [];
    });
    const wanted = new Set(jobsToFollow(jobs, isOver, MOST));
    for (const [id, stop] of following) {
      if (wanted.has(id)) continue;
      stop();
      following.delete(id);
    }
    for (const id of wanted) if (!following.has(id)) following.set(id, watch(id));
  });
  const endOfExpired = effect(askForExpired);
  return () => {
    end();
    endOfExpired();
    for (const stop of following.values()) stop();
  };
}

/** What should have been deleted by now is asked for, for nothing else says that it is gone. */
function askForExpired(): void {
  const time = now.value;
  for (const id of inView.peek()) {
    const entry = entryOf(id);
    if (!entry?.expiresAt || entry.expiresAt > time) continue;
    const job = mainJobOf(entry);
    if (!jobState(job).peek().gone) void ask(job);
  }
}
