import { t } from "../store/appearance";
import type { Picture } from "../store/pictures";
import { SaidProblem } from "./said";
import { Notice } from "./notice";

/** Why a picture cannot be shown, and a button that fetches it again. Nothing if it can. */
export function PictureProblem({ picture: { problem, retry } }: { picture: Picture }) {
  if (!problem) return null;
  return (
    <Notice kind="error">
      <p>
        <SaidProblem problem={problem} />
      </p>
      {problem.status !== 404 && problem.status !== 410 && (
        <button type="button" class="button small" onClick={retry}>
          {t.value.common.retry}
        </button>
      )}
    </Notice>
  );
}
