import { useEffect, useState } from "preact/hooks";
import { inspect } from "../api/client";
import { Problem } from "../api/problem";
import { Dialog } from "../parts/dialog";
import { Notice } from "../parts/notice";
import { useAddress } from "../store/address";
import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { handedOver } from "../store/handover";
import { goTo } from "../store/route";
import { describeProblem } from "../text/words";
import { attempt } from "./creation-form";
import { fromInput } from "./form";
import { drawAgain } from "./generate";
import { type Told, toldBy } from "./recipe";
import { forgive, form } from "./state";
import "./recipe-dialog.css";

/** What a file says of how it was made, and what can be done with that. `files`: none: closed. */
export function RecipeDialog({ files, onClose }: { files: readonly File[]; onClose: () => void }) {
  const texts = t.value.create;
  const file = files.length === 1 ? (files[0] ?? null) : null;
  const { told, problem } = useTold(file);
  const picture = useAddress(file);
  const request = told?.request ?? null;

  function openInRestore() {
    handedOver.value = [...files];
    onClose();
    goTo("restore");
  }
  return (
    <Dialog title={texts.recipeTitle} open={files.length > 0} onClose={onClose}>
      <div class="recipe">
        {files.length > 1 && <p>{texts.severalDropped(formatNumber(files.length))}</p>}
        {file && !told && !problem && <p role="status">{texts.reading}</p>}
        {problem && (
          <Notice kind="error" live>
            {problem.status === 422 && file ? texts.notPicture(file.name) : describeProblem(problem)}
          </Notice>
        )}
        {told && (
          <>
            {picture && <img src={picture} alt={file?.name ?? ""} />}
            {request?.prompt && <p class="prompt">{request.prompt}</p>}
            {told.kind === "other" && <p class="small soft">{texts.recipeOther}</p>}
            {told.kind === "restoration" && <p>{texts.recipeOfRestoration}</p>}
            {told.kind === "nothing" && <p>{texts.recipeNone}</p>}
            {told.facts.length > 0 && (
              <dl class="small" tabIndex={0} aria-label={texts.recipeTitle}>
                {told.facts.map(([name, value]) => (
                  <div key={name}>
                    <dt class="soft">{told.kind === "drawing" ? nameOf(name) : name}</dt>
                    <dd class="tabular">{{ true: texts.yes, false: texts.no }[value] ?? value}</dd>
                  </div>
                ))}
              </dl>
            )}
          </>
        )}
        <div class="row">
          {request && (
            <button
              type="button"
              class="button primary"
              onClick={() => {
                forgive();
                form.value = fromInput(request);
                onClose();
                announce(texts.recipeUsed);
              }}
            >
              {texts.recipeUse}
            </button>
          )}
          {told?.kind === "drawing" && request && file && (
            <button
              type="button"
              class="button"
              onClick={() => {
                onClose();
                void attempt(() => drawAgain(file, request));
              }}
            >
              {texts.drawAgain}
            </button>
          )}
          {(files.length > 1 || (told && told.kind !== "drawing")) && (
            <button type="button" class="button" onClick={openInRestore}>
              {texts.openInRestore}
            </button>
          )}
        </div>
      </div>
    </Dialog>
  );
}

/** The form's name of one of the gateway's fields; what the form has no field for keeps the gateway's. */
function nameOf(field: string): string {
  const texts = t.value.create;
  const names: Record<string, string> = {
    negative_prompt: texts.negative,
    num_inference_steps: texts.steps,
    guidance_scale: texts.guidance,
    sampler: texts.sampler,
    schedule: texts.schedule,
    use_refiner: texts.refiner,
    hires_fix: texts.hires,
    use_face_restoration: texts.restoreFaces,
    face_restoration_weight: texts.fidelity,
    upscale: texts.enlarge,
    num_images: texts.pictures,
    width: texts.width,
    height: texts.height,
  };
  return names[field] ?? field;
}

interface Answer {
  told: Told | null;
  problem: Problem | null;
}
const NONE: Answer = { told: null, problem: null };

function useTold(file: File | null): Answer {
  const [answer, setAnswer] = useState<Answer>(NONE);
  useEffect(() => {
    setAnswer(NONE);
    if (!file) return undefined;
    const controller = new AbortController();
    const { seedOf, modelSet } = t.peek().create;
    inspect(file, controller.signal).then(
      (inspection) => setAnswer({ told: toldBy(inspection, { seed: seedOf, modelSet }), problem: null }),
      (error: unknown) => {
        if (controller.signal.aborted) return;
        if (!(error instanceof Problem)) throw error;
        setAnswer({ told: null, problem: error });
      },
    );
    return () => controller.abort();
  }, [file]);
  return answer;
}
