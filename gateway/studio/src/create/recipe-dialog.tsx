import { useEffect, useState } from "preact/hooks";
import { inspect } from "../api/client";
import { Problem } from "../api/problem";
import { Dialog } from "../parts/dialog";
import { Notice } from "../parts/notice";
import { useAddress } from "../store/address";
import { Said, SaidProblem } from "../parts/said";
import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { handedOver } from "../store/handover";
import { goTo } from "../store/route";
import { attempt } from "./asking";
import { Facts } from "./facts";
import { fromInput } from "./form";
import { drawAgain, generate } from "./generate";
import { MODEL_SET, type Told, toldBy } from "./recipe";
import { replaceForm } from "./state";
import "./recipe-dialog.css";

/** What a file says of how it was made, and what can be done with that. `files`: none: closed. */
export function RecipeDialog({ files, onClose }: { files: readonly File[]; onClose: () => void }) {
  const texts = t.value.create;
  const file = files.length === 1 ? (files[0] ?? null) : null;
  const { told, problem } = useTold(file);
  const picture = useAddress(file);
  const request = told?.request ?? null;
  const [refusal, setRefusal] = useState<{ of: File; problem: Problem } | null>(null);
  const refused = refusal?.of === file ? refusal.problem : null;
  const isDrawing = told?.kind === "drawing" || told?.kind === "restored drawing";
  const modelSet = told?.facts.find(([name]) => name === MODEL_SET)?.[1] ?? null;

  /** Draw it; that the recipe cannot be followed is told here, with what can be done instead. */
  async function draw(anyModelSet = false) {
    if (!file || !request) return;
    setRefusal(null);
    // A restored drawing is drawn by its request: a file is drawn by the recipe of a drawing alone.
    const ask = () => (told?.kind === "drawing" ? drawAgain(file, request, anyModelSet) : generate(request));
    await attempt(async () => {
      try {
        await ask();
      } catch (error) {
        if (!(error instanceof Problem && error.fields.some(({ field }) => field.endsWith("recipe_of")))) {
          onClose(); // the form tells it
          throw error;
        }
        setRefusal({ of: file, problem: error });
        return false;
      }
      onClose();
      return true;
    });
  }

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
            {problem.status === 422 && file ? texts.notPicture(file.name) : <SaidProblem problem={problem} />}
          </Notice>
        )}
        {told && (
          <>
            {picture && <img src={picture} alt={file?.name ?? ""} />}
            {request?.prompt && <p class="prompt">{request.prompt}</p>}
            {told.kind === "other" && <p class="small soft">{texts.recipeOther}</p>}
            {told.kind === "restored drawing" && <p class="small soft">{texts.recipeRestored}</p>}
            {told.kind === "restoration" && <p>{texts.recipeOfRestoration}</p>}
            {told.beganFrom && <p>{texts.recipeBegan}</p>}
            {told.kind === "nothing" && <p>{texts.recipeNone}</p>}
            <Facts facts={told.facts} areFields={isDrawing} name={texts.recipeTitle} />
            {refused && (
              <Notice kind="error" live>
                <p>{refused.fields.map(({ message }) => <Said key={message}>{message}</Said>)}</p>
                {modelSet && (
                  <button type="button" class="button small" onClick={() => void draw(true)}>
                    {texts.drawAllTheSame}
                  </button>
                )}
              </Notice>
            )}
          </>
        )}
        <div class="row">
          {request && (
            <button
              type="button"
              class="button primary"
              onClick={() => {
                replaceForm(fromInput(request));
                onClose();
                announce(texts.recipeUsed);
              }}
            >
              {texts.recipeUse}
            </button>
          )}
          {isDrawing && !told.beganFrom && (
            <button type="button" class="button" onClick={() => void draw()}>
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
    const read = async () => {
      try {
        setAnswer({ told: toldBy(await inspect(file, controller.signal)), problem: null });
      } catch (error) {
        if (controller.signal.aborted) return;
        setAnswer({ told: null, problem: error instanceof Problem ? error : new Problem(500, "unreadable", String(error)) });
      }
    };
    void read();
    return () => controller.abort();
  }, [file]);
  return answer;
}
