import { useEffect, useRef } from "preact/hooks";
import { Icon } from "../parts/icon";
import { Notice } from "../parts/notice";
import { SaidProblem } from "../parts/said";
import { formatNumber, t } from "../store/appearance";
import { draw } from "./asking";
import { FidelitySlider } from "./fidelity-slider";
import { FieldError, describedBy } from "./field-error";
import { LONGEST_PROMPT, MOST_PICTURES } from "./form";
import { isAsking } from "./generate";
import { MoreOptions } from "./more-options";
import { SeedField } from "./seed-field";
import { ShapeChoice } from "./shape-choice";
import { change, errors, form, former, inView, isNarrow, problem, undo } from "./state";
import "./creation-form.css";

/** What is to be drawn. `onRead`: a picture's recipe is asked for. */
export function CreationForm({ onRead }: { onRead: (files: File[]) => void }) {
  const texts = t.value.create;
  const fields = form.value;
  const acts = inView.value?.effect === "acts";
  const hasSlider = acts ? !isNarrow.value : fields.restoreFaces; // otherwise it is under the picture
  return (
    <form
      class="creation-form sheet"
      aria-label={texts.form}
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void draw();
      }}
    >
      <PromptField />
      {former.value && (
        <div class="creation-form-former small soft" role="status">
          <span>{texts.replaced}</span>
          <button
            type="button"
            class="button quiet small"
            onClick={() => {
              undo();
              document.getElementById("create-prompt")?.focus();
            }}
          >
            {texts.undo}
          </button>
        </div>
      )}
      <ShapeChoice />
      <div class="creation-form-group">
        <label class="check">
          <input
            type="checkbox"
            checked={fields.restoreFaces}
            aria-describedby={describedBy("restoreFaces")}
            onChange={(event) => change({ restoreFaces: event.currentTarget.checked })}
          />
          {texts.restoreFaces}
        </label>
        <FieldError of="restoreFaces" />
        {hasSlider && <FidelitySlider />}
        <label class="check">
          <input
            type="checkbox"
            checked={fields.hires}
            aria-describedby={describedBy("hires", "create-hires-hint")}
            onChange={(event) => change({ hires: event.currentTarget.checked })}
          />
          {texts.hires}
        </label>
        <p id="create-hires-hint" class="small soft hint">
          {texts.hiresHint}
        </p>
        <FieldError of="hires" />
      </div>
      <div class="creation-form-pair">
        <PicturesField />
        <SeedField />
      </div>
      <MoreOptions />
      <div class="creation-form-ask">
        {problem.value && (
          <Notice kind="error" live>
            <SaidProblem problem={problem.value} />
          </Notice>
        )}
        <button
          type="submit"
          class="button primary"
          aria-disabled={isAsking.value}
          onClick={(event) => event.detail > 1 && event.preventDefault()} // a double click asks once
        >
          {texts.generate}
        </button>
        <span class="small soft keys">{texts.generateHint}</span>
      </div>
      <label class="creation-form-read small">
        <Icon name="picture" />
        {texts.readRecipe}
        <input
          type="file"
          accept="image/png,image/jpeg,image/webp"
          onChange={(event) => {
            onRead([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = "";
          }}
        />
      </label>
    </form>
  );
}

const GROWS = typeof CSS !== "undefined" && CSS.supports("field-sizing", "content");

/** The prompt grows with its text. */
function PromptField() {
  const texts = t.value.create;
  const { prompt } = form.value;
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    if (GROWS || !area.current) return;
    area.current.style.blockSize = "auto";
    area.current.style.blockSize = `${area.current.scrollHeight + 2}px`;
  }, [prompt]);
  const isLong = prompt.length > LONGEST_PROMPT * 0.8;
  return (
    <div class="field">
      <label class="name" for="create-prompt">
        {texts.prompt}
      </label>
      <textarea
        ref={area}
        id="create-prompt"
        class="input creation-form-prompt"
        rows={3}
        placeholder={texts.promptExample}
        value={prompt}
        aria-invalid={errors.value.prompt !== undefined}
        aria-describedby={describedBy("prompt", "create-prompt-hint")}
        onInput={(event) => change({ prompt: event.currentTarget.value })}
      />
      <FieldError of="prompt" />
      <p id="create-prompt-hint" class="small soft creation-form-hint">
        <span>{texts.promptHint}</span>
        {isLong && (
          <span class={`tabular ${prompt.length > LONGEST_PROMPT ? "too-long" : ""}`}>
            {texts.count(formatNumber(prompt.length), formatNumber(LONGEST_PROMPT))}
          </span>
        )}
      </p>
    </div>
  );
}

function PicturesField() {
  const texts = t.value.create;
  const { pictures } = form.value;
  const step = (by: number, name: string, icon: "plus" | "minus", isEnd: boolean) => (
    <button
      type="button"
      class="button quiet square"
      aria-label={name}
      aria-disabled={isEnd}
      onClick={() => !isEnd && change({ pictures: pictures + by })}
    >
      <Icon name={icon} />
    </button>
  );
  return (
    <div class="field">
      <span class="name" id="create-pictures">
        {texts.pictures}
      </span>
      <div class="stepper" role="group" aria-labelledby="create-pictures">
        {step(-1, texts.fewer, "minus", pictures <= 1)}
        <output class="tabular" aria-live="polite">
          {formatNumber(pictures)}
        </output>
        {step(1, texts.more, "plus", pictures >= MOST_PICTURES)}
      </div>
      <FieldError of="pictures" />
    </div>
  );
}
