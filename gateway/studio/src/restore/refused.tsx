import { Icon } from "../parts/icon";
import { t } from "../store/appearance";
import { describeProblem } from "../text/words";
import { type Arrival, canRetry, removeArrivals, retryArrivals } from "./adding";
import { focusOn } from "./focus";
import { sentenceOf } from "./mark";
import "./refused.css";

/** Files that were not taken, with the reason, below the contact sheet. */
export function Refused({ refused }: { refused: readonly Arrival[] }) {
  const texts = t.value.restore.sheet;
  const again = refused.filter(canRetry);
  if (refused.length === 0) return null;

  function remove(removed: readonly Arrival[]) {
    removeArrivals(removed);
    focusOn(".refused button", ".add-photographs input");
  }

  return (
    <div class="refused small" role="alert">
      {refused.length > 1 && (
        <div class="row">
          <strong>{texts.notAddedAll(refused.length)}</strong>
          {again.length > 1 && (
            <button type="button" class="button small" onClick={() => retryArrivals(again)}>
              {texts.retryAll}
            </button>
          )}
          <button type="button" class="button quiet small" onClick={() => remove(refused)}>
            {texts.dismissAll}
          </button>
        </div>
      )}
      <ul>
        {refused.map((arrival) => (
          <li key={arrival.id}>
            <p>
              <strong>{refused.length > 1 ? `${arrival.name}:` : texts.notAdded(arrival.name)}</strong> <Reason arrival={arrival} />
            </p>
            {canRetry(arrival) && (
              <button type="button" class="button small" onClick={() => retryArrivals([arrival])}>
                {t.value.common.retry}
              </button>
            )}
            <button
              type="button"
              class="button quiet square small"
              aria-label={texts.remove(arrival.name)}
              onClick={() => remove([arrival])}
            >
              <Icon name="close" />
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** What is wrong with a file: in the page's words where it knows, otherwise in the gateway's, which are English. */
function Reason({ arrival: { unusable, problem } }: { arrival: Arrival }) {
  const texts = t.value.restore.sheet;
  if (unusable) return <>{texts.unusable[unusable]}</>;
  if (!problem) return null;
  if (problem.status === 413) return <>{texts.tooLarge}</>;
  if (problem.isTemporary || problem.status === 401) return <>{describeProblem(problem)}</>;
  return <span lang="en">{sentenceOf(problem)}</span>;
}
