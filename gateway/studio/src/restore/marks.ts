/** The marks of the photographs as they are now, and in words. */
import { t } from "../store/appearance";
import { now } from "../store/clock";
import type { Photograph } from "../store/entries";
import { jobState } from "../store/jobs";
import { markOf, type Mark } from "./mark";

const UNASKED = { job: null, gone: false };

export function currentMark(photograph: Photograph): Mark {
  return markOf(photograph, {
    finding: jobState(photograph.id).value,
    restoring: photograph.restoration === null ? UNASKED : jobState(photograph.restoration).value,
    now: now.value,
  });
}

export function describeMark(mark: Mark): string {
  const { marks } = t.value.restore.sheet;
  return mark.kind === "found" ? marks.found(mark.faces) : marks[mark.kind];
}
