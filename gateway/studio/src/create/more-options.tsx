import { useEffect, useState } from "preact/hooks";
import { t } from "../store/appearance";
import { FieldError, describedBy } from "./field-error";
import { DEFAULTS, IN_MORE, SAMPLERS, SCHEDULES } from "./form";
import { change, errors, form, replaceForm } from "./state";
import { TextField } from "./text-field";
import "./more-options.css";

/** Fields that few need. Opened where something is wrong with one. */
export function MoreOptions() {
  const texts = t.value.create;
  const fields = form.value;
  const [open, setOpen] = useState(false);
  const isWrong = IN_MORE.some((name) => errors.value[name] !== undefined);
  useEffect(() => {
    if (isWrong) setOpen(true);
  }, [isWrong]);
  const others = Object.keys(fields.others);
  return (
    <details class="more-options" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{texts.moreOptions}</summary>
      <div class="more-options-fields">
        <div class="field">
          <label class="name" for="create-negative">
            {texts.negative}
          </label>
          <textarea
            id="create-negative"
            class="input"
            rows={2}
            value={fields.negativePrompt}
            aria-invalid={errors.value.negativePrompt !== undefined}
            aria-describedby={describedBy("negativePrompt", "create-negative-hint")}
            onInput={(event) => change({ negativePrompt: event.currentTarget.value })}
          />
          <FieldError of="negativePrompt" />
          <p id="create-negative-hint" class="small soft">
            {texts.negativeHint}
          </p>
        </div>
        <div>
          <label class="check">
            <input
              type="checkbox"
              checked={fields.weighted}
              aria-describedby={describedBy("weighted", "create-weighted-hint")}
              onChange={(event) => change({ weighted: event.currentTarget.checked })}
            />
            {texts.weighted}
          </label>
          <p id="create-weighted-hint" class="small soft hint">
            {texts.weightedHint}
          </p>
          <FieldError of="weighted" />
        </div>
        <fieldset class="pair">
          <legend class="name">{texts.exactSize}</legend>
          <TextField of="width" name={texts.width} numeric />
          <TextField of="height" name={texts.height} numeric />
        </fieldset>
        <div class="pair">
          <TextField of="steps" name={texts.steps} placeholder={texts.modelsOwn} numeric />
          <TextField of="guidance" name={texts.guidance} placeholder={texts.modelsOwn} numeric />
        </div>
        <div class="pair">
          <Choice of="sampler" name={texts.sampler} values={SAMPLERS} />
          <Choice of="schedule" name={texts.schedule} values={SCHEDULES} />
        </div>
        <div class="pair end">
          <div>
            <label class="check">
              <input
                type="checkbox"
                checked={fields.refiner}
                aria-describedby={describedBy("refiner")}
                onChange={(event) => change({ refiner: event.currentTarget.checked })}
              />
              {texts.refiner}
            </label>
            <FieldError of="refiner" />
          </div>
          <fieldset>
            <legend class="name">{texts.enlarge}</legend>
            <div class="segments">
              {([1, 2, 4] as const).map((factor) => (
                <label key={factor}>
                  <input
                    type="radio"
                    name="upscale"
                    checked={fields.upscale === factor}
                    onChange={() => change({ upscale: factor })}
                  />
                  <span>{factor === 1 ? texts.notEnlarged : `${factor}×`}</span>
                </label>
              ))}
            </div>
            <FieldError of="upscale" />
          </fieldset>
        </div>
        {others.length > 0 && (
          <p class="small">
            {texts.others}: {others.join(", ")}{" "}
            <button type="button" class="button quiet small" onClick={() => change({ others: {} })}>
              {texts.othersDrop}
            </button>
          </p>
        )}
        <button
          type="button"
          class="button quiet small reset"
          onClick={() => replaceForm({ ...DEFAULTS, prompt: form.value.prompt })}
        >
          {texts.reset}
        </button>
      </div>
    </details>
  );
}

/** One of the names that the gateway knows, or the one that a recipe has. */
function Choice({ of, name, values }: { of: "sampler" | "schedule"; name: string; values: readonly string[] }) {
  const value = form.value[of];
  const id = `create-${of}`;
  const all = value === "" || values.includes(value) ? values : [value, ...values];
  return (
    <div class="field">
      <label class="name" for={id}>
        {name}
      </label>
      <select
        id={id}
        class="input"
        value={value}
        aria-invalid={errors.value[of] !== undefined}
        aria-describedby={describedBy(of)}
        onChange={(event) => change({ [of]: event.currentTarget.value })}
      >
        <option value="">{t.value.create.modelsOwn}</option>
        {all.map((each) => (
          <option key={each} value={each}>
            {each}
          </option>
        ))}
      </select>
      <FieldError of={of} />
    </div>
  );
}
