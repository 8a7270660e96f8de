import { useEffect, useState } from "preact/hooks";
import { getOutput, inspect } from "../api/client";
import { Problem } from "../api/problem";
import type { GenerateInput } from "../api/types";
import { Icon } from "../parts/icon";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { copyText, download, extensionOf, fileNameOf } from "../store/files";
import { describeProblem } from "../text/words";
import { attempt } from "./asking";
import { generate } from "./generate";
import type { Outcome } from "./outcome";
import { recipeToDraw } from "./recipe";
import type { Variant } from "./use-variant";

interface Props {
  input: GenerateInput | null;
  /** The one that the picture is shown at; null: as it was asked for. */
  fidelity: number | null;
  outcome: Outcome;
  /** The output in view. */
  shown: Variant;
  canCompare: boolean;
  compares: boolean;
  onCompare: (compares: boolean) => void;
}

/** What can be done with a finished picture. */
export function PictureTools({ input, fidelity, outcome, shown, canCompare, compares, onCompare }: Props) {
  const texts = t.value;
  const [isBusy, setBusy] = useState(false);

  /** Do one thing at a time, and tell what went wrong with it. */
  async function once(action: () => Promise<void>) {
    if (isBusy) return;
    setBusy(true);
    try {
      await action();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      announce(describeProblem(error), "error");
    } finally {
      setBusy(false);
    }
  }
  // What leaves the page is at the fidelity that the slider shows: it is waited for.
  const [wanted, setWanted] = useState<"file" | "recipe" | null>(null);
  useEffect(() => {
    if (!wanted || shown.isWorking) return;
    setWanted(null);
    if (shown.problem) announce(describeProblem(shown.problem), "error");
    else void (wanted === "file" ? save() : copyRecipe());
  }, [wanted, shown.isWorking]);

  const save = () =>
    once(async () => {
      const file = await getOutput(shown.job, shown.output);
      const fidelity = shown.fidelity === null ? "" : `-fidelity-${shown.fidelity.toFixed(2)}`;
      download(file, `${fileNameOf(outcome.prompt)}-${outcome.seed}${fidelity}.${extensionOf(file)}`);
    });
  const copyRecipe = () =>
    once(async () => {
      const { recipe } = await inspect(await getOutput(shown.job, shown.output));
      if (!recipe) {
        announce(texts.create.noRecipe);
        return;
      }
      await copyText(JSON.stringify(recipeToDraw(recipe), null, 2)).then(
        () => announce(texts.common.copied),
        () => announce(texts.common.notCopied, "error"),
      );
    });
  const vary = () => once(() => attempt(() => generate({ ...input, ...(fidelity !== null && { face_restoration_weight: fidelity }), seed: undefined })));

  return (
    <div class="picture-tools">
      {canCompare && (
        <button type="button" class="button quiet" aria-pressed={compares} onClick={() => onCompare(!compares)}>
          {texts.create.beforeAfter}
        </button>
      )}
      {input && (
        <button type="button" class="button quiet" onClick={vary}>
          <Icon name="dice" />
          {texts.create.vary}
        </button>
      )}
      {wanted && shown.isWorking && (
        <p class="only-read-aloud" role="status">
          {texts.create.fidelityWorks}
        </p>
      )}
      <button type="button" class="button" aria-busy={wanted === "file"} onClick={() => setWanted("file")}>
        <Icon name="download" />
        {texts.common.download}
      </button>
      <button
        type="button"
        class="button quiet"
        aria-busy={wanted === "recipe"}
        onClick={() => setWanted("recipe")}
      >
        <Icon name="copy" />
        {texts.create.copyRecipe}
      </button>
    </div>
  );
}
