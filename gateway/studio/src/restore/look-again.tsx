import { submit } from "../api/client";
import { Problem } from "../api/problem";
import { useState } from "preact/hooks";
import { JobProgress } from "../parts/job-progress";
import { Notice } from "../parts/notice";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { recordJob } from "../store/deleting";
import type { Photograph } from "../store/entries";
import { isFinal, useJob } from "../store/jobs";
import { describeProblem } from "../text/words";
import { sentenceOf } from "./mark";

/** Where no face was found: another look, at full size and in all turns. */
export function LookAgain({ photograph }: { photograph: Photograph }) {
  const { id, lookingAgain, lookedThoroughly } = photograph;
  const [isSending, setIsSending] = useState(false);
  const state = useJob(lookingAgain ?? null);
  const { job } = state;
  const isLooking = lookingAgain != null && !(job && isFinal(job));
  const texts = t.value.restore.photograph;

  async function look() {
    setIsSending(true);
    try {
      const image = { job: id, output: "input_image" };
      const again = await submit({ type: "detect", input: { image, look: "thorough", detect_size: 0 } });
      await recordJob<Photograph>(id, again, (entry) => ({ ...entry, lookingAgain: again.id }));
    } catch (error) {
      if (error instanceof Problem) announce(describeProblem(error), "error");
      else throw error;
    } finally {
      setIsSending(false);
    }
  }

  return (
    <div class="look-again">
      <Notice live>
        <p>
          <strong>{lookedThoroughly && !isLooking ? texts.stillNone : texts.noFace}</strong>
        </p>
        <p class="small">{lookedThoroughly ? texts.stillNoneHint : texts.noFaceHint}</p>
      </Notice>
      {job?.status === "failed" && (
        <Notice kind="error" live>
          {texts.lookFailed} {job.error && <span lang="en">{sentenceOf(job.error)}</span>}
        </Notice>
      )}
      {isLooking ? (
        <JobProgress state={state} />
      ) : lookedThoroughly ? null : (
        <button type="button" class="button" disabled={isSending} onClick={() => void look()}>
          {texts.lookThoroughly}
        </button>
      )}
    </div>
  );
}
