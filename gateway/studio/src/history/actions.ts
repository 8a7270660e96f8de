/** What a person can do to what was asked for. */
import { cancelJob } from "../api/client";
import { Problem } from "../api/problem";
import { generate } from "../create/generate";
import { announce } from "../store/announcer";
import * as deleting from "../store/deleting";
import type { Creation, Entry } from "../store/entries";
import { learn } from "../store/jobs";
import { mainJobOf } from "../store/keeping";
import { describeProblem } from "../text/words";

/** Whether it worked; if not, the person is told why. */
async function tell(action: () => Promise<void>): Promise<boolean> {
  try {
    await action();
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    announce(describeProblem(error), "error");
    return false;
  }
}

export function cancel(entry: Entry): Promise<boolean> {
  return tell(async () => learn(await cancelJob(mainJobOf(entry))));
}

/** Draw once more what was asked for, with another seed unless one was given. */
export function again(entry: Creation): Promise<boolean> {
  return tell(() => generate(entry.input));
}

/** Delete what the gateway has of an entry, then the entry; it stays if the gateway cannot be asked. */
export function deleteEntry(entry: Entry): Promise<boolean> {
  return tell(() => deleting.deleteEntry(entry));
}

/** Delete entries one after another; stop at the first that cannot be deleted. */
export function deleteEntries(entries: readonly Entry[]): Promise<boolean> {
  return tell(() => deleting.deleteEntries(entries));
}
