/** When the gateway takes nothing now, or does not answer: what waits is sent later, and the person is told. */
import { type ReadonlySignal, signal } from "@preact/signals";
import { Problem } from "../api/problem";

const RETRY_MS = 3000;

export interface HoldUp {
  /** Why; null while nothing is held up. */
  problem: ReadonlySignal<Problem | null>;
  isHeld: () => boolean;
  /** Wait as long as the gateway says. */
  begin: (problem: Problem) => void;
  /** It takes something again. */
  end: () => void;
}

/** `resume` is called when it is time to try again. */
export function holdUp(resume: () => void): HoldUp {
  const problem = signal<Problem | null>(null);
  let timer: ReturnType<typeof setTimeout> | null = null;
  function stop(): void {
    if (timer !== null) clearTimeout(timer);
    timer = null;
  }
  return {
    problem,
    isHeld: () => timer !== null,
    begin(why) {
      stop();
      problem.value = why;
      timer = setTimeout(() => {
        timer = null;
        resume();
      }, why.retryAfterSeconds === null ? RETRY_MS : 1000 * why.retryAfterSeconds);
    },
    end() {
      stop();
      problem.value = null;
    },
  };
}

/** Whether the same may be taken later, without the person doing anything but entering a key. */
export function isHoldUp(problem: Problem): boolean {
  return problem.isTemporary || problem.status === 401;
}

/** What was thrown, as a problem. */
export function problemFrom(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, "offline", String(error));
}
