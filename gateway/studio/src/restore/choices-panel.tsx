import type { FoundFace } from "../api/types";
import { Slider } from "../parts/slider";
import { formatNumber, t } from "../store/appearance";
import { changeEntry, type FaceChoice, type Photograph, type PhotographSettings, type Preset } from "../store/entries";
import { choose, chooseForAll, isWorthIt, PRESETS, presetOf } from "./edits";
import { PhotographOptions } from "./photograph-options";
import { restore } from "./queue";
import { Strip } from "./strip";
import "./choices-panel.css";

interface Props {
  photograph: Photograph;
  active: boolean;
  /** The face that is decided on; null: all of them. */
  chosen: FoundFace | null;
  isBusy: boolean;
  onChosen: (index: number | null) => void;
  /** Shows the result again, where there is one. */
  onBack: (() => void) | null;
}

/** What becomes of one face, or of all; how the photograph is treated; and the button that does it. */
export function ChoicesPanel({ photograph, active, chosen, isBusy, onChosen, onBack }: Props) {
  const { id, faces } = photograph;
  const texts = t.value.restore;
  const hasFaces = (faces?.length ?? 0) > 0;
  const set = (change: Partial<PhotographSettings>) =>
    void changeEntry<Photograph>(id, (entry) => ({ ...entry, settings: { ...entry.settings, ...change } }));

  const isWorth = isWorthIt(photograph);
  return (
    <form class="choices" onSubmit={(event) => event.preventDefault()}>
      {(faces?.length ?? 0) > MANY_FACES && <FaceChoiceList photograph={photograph} chosen={chosen} onChosen={onChosen} />}
      {chosen ? (
        <OneFace photograph={photograph} face={chosen} active={active} onBack={() => onChosen(null)} />
      ) : (
        hasFaces && <AllFaces photograph={photograph} onSet={set} />
      )}
      <PhotographOptions photograph={photograph} onSet={set} />
      <div class="choices-actions">
        <button
          type="button"
          class="button primary"
          disabled={isBusy || !isWorth}
          aria-describedby={isWorth ? undefined : `nothing-${id}`}
          onClick={() => void restore([photograph])}
        >
          {texts.actions.restore}
        </button>
        {onBack && (
          <button type="button" class="button quiet" onClick={onBack}>
            {texts.actions.result}
          </button>
        )}
        {!isWorth && (
          <p class="small soft choices-reason" id={`nothing-${id}`}>
            {hasFaces ? texts.actions.nothing : texts.actions.nothingFound}
          </p>
        )}
      </div>
    </form>
  );
}

/** From so many on, frames in the photograph are small and close to one another. */
const MANY_FACES = 8;

interface ListProps {
  photograph: Photograph;
  chosen: FoundFace | null;
  onChosen: (index: number | null) => void;
}

/** The faces by their numbers, for whoever cannot tell them apart in the photograph. */
function FaceChoiceList({ photograph: { faces, choices }, chosen, onChosen }: ListProps) {
  const texts = t.value.restore.face;
  return (
    <label class="field">
      <span class="name">{texts.list}</span>
      <select
        class="input"
        value={chosen === null ? "" : String(chosen.index)}
        onChange={({ currentTarget: { value } }) => onChosen(value === "" ? null : Number(value))}
      >
        <option value="">{texts.all}</option>
        {(faces ?? []).map(({ index }) => (
          <option key={index} value={String(index)}>
            {t.value.faces.face(index + 1)}
            {choices[index]?.skip ? ` (${texts.willSkip})` : ""}
          </option>
        ))}
      </select>
    </label>
  );
}

const inWords = (value: number) => formatNumber(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const inPercent = (value: number) => formatNumber(value, { style: "percent" });

function AllFaces({ photograph, onSet }: { photograph: Photograph; onSet: (change: Partial<PhotographSettings>) => void }) {
  const { id, settings, choices } = photograph;
  const texts = t.value.restore;
  const preset = presetOf(settings);
  const own = Object.keys(choices).length;
  return (
    <section class="choices-part" aria-label={texts.face.all}>
      <header>
        <h2>{texts.face.all}</h2>
        <p class="small soft">{texts.face.allHint}</p>
      </header>
      <fieldset class="preset">
        <legend class="only-read-aloud">{texts.presets.label}</legend>
        <div class="segments">
          {(Object.keys(PRESETS) as Preset[]).map((each) => (
            <label key={each}>
              <input
                type="radio"
                name={`preset-${id}`}
                checked={preset === each}
                onChange={() => onSet({ fidelity: PRESETS[each] })}
              />
              <span>{texts.presets.names[each]}</span>
            </label>
          ))}
        </div>
        <p class="small soft">{texts.presets.hints[preset ?? "own"]}</p>
      </fieldset>
      <FidelityAndVisibility {...settings} onSet={onSet} />
      {own > 0 && (
        <p class="small">
          {texts.face.own(own)}{" "}
          <button
            type="button"
            class="button quiet small"
            onClick={() => void changeEntry<Photograph>(id, (entry) => ({ ...entry, choices: {} }))}
          >
            {texts.face.forget}
          </button>
        </p>
      )}
    </section>
  );
}

interface OneFaceProps {
  photograph: Photograph;
  face: FoundFace;
  active: boolean;
  onBack: () => void;
}

function OneFace({ photograph, face, active, onBack }: OneFaceProps) {
  const { id, settings, choices } = photograph;
  const { index } = face;
  const texts = t.value.restore;
  const choice = choices[index] ?? {};
  const { fidelity, visibility } = { ...settings, ...choice };
  const set = (change: FaceChoice) =>
    void changeEntry<Photograph>(id, (entry) => ({ ...entry, choices: choose(entry.choices, index, change) }));
  const name = t.value.faces.face(index + 1);
  return (
    <section class="choices-part" aria-label={name}>
      <header class="choices-head">
        <h2>{name}</h2>
        <button type="button" class="button quiet small" onClick={onBack}>
          {texts.face.back}
        </button>
      </header>
      <Strip photograph={photograph} face={face} choice={choice} fidelity={fidelity} active={active} onChoose={set} />
      <FidelityAndVisibility fidelity={fidelity} visibility={visibility} disabled={choice.skip ?? false} onSet={set} />
      <label class="check">
        <input
          type="checkbox"
          checked={choice.skip ?? false}
          onChange={(event) => set({ skip: event.currentTarget.checked })}
        />
        <span>{texts.face.skip}</span>
      </label>
      <div class="row">
        {(photograph.faces?.length ?? 0) > 1 && (
          <button
            type="button"
            class="button small"
            onClick={() => void changeEntry<Photograph>(id, (entry) => chooseForAll(entry, index))}
          >
            {texts.face.apply}
          </button>
        )}
        {Object.keys(choice).length > 0 && (
          <button
            type="button"
            class="button quiet small"
            onClick={() => set({ fidelity: undefined, visibility: undefined, skip: undefined })}
          >
            {texts.face.reset}
          </button>
        )}
      </div>
    </section>
  );
}

interface SlidersProps {
  fidelity: number;
  visibility: number;
  disabled?: boolean;
  onSet: (change: { fidelity?: number; visibility?: number }) => void;
}

function FidelityAndVisibility({ fidelity, visibility, disabled = false, onSet }: SlidersProps) {
  const texts = t.value.restore.face;
  return (
    <>
      <Slider
        name={texts.fidelity}
        value={fidelity}
        low={texts.fidelityLow}
        high={texts.fidelityHigh}
        format={inWords}
        disabled={disabled}
        onInput={(value) => onSet({ fidelity: value })}
      />
      <Slider
        name={texts.visibility}
        value={visibility}
        format={inPercent}
        low={texts.visibilityLow}
        high={texts.visibilityHigh}
        disabled={disabled}
        onInput={(value) => onSet({ visibility: value })}
      />
    </>
  );
}
