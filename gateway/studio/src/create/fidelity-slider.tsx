import { SaidProblem } from "../parts/said";
import { Slider } from "../parts/slider";
import { formatNumber, t } from "../store/appearance";
import { describeReason } from "../text/words";
import { isSame } from "./fidelity";
import { FieldError } from "./field-error";
import { form, inView, keepFidelity, setFidelity } from "./state";

/** How far faces are restored: those of the next picture, whose fidelity it shows, and of the finished one in view. */
export function FidelitySlider() {
  const texts = t.value.create;
  const { fidelity } = form.value;
  const view = inView.value;
  const isOther = view?.effect === "acts" && !isSame(view.fidelity, fidelity);
  return (
    <div class="fidelity-slider">
      <Slider
        name={texts.fidelity}
        value={fidelity}
        step={0.05}
        low={texts.fidelityLow}
        high={texts.fidelityHigh}
        format={inWords}
        onInput={setFidelity}
        onChange={keepFidelity}
      />
      <FieldError of="fidelity" />
      <p class="small soft" role="status">
        {words(isOther)}
      </p>
      {isOther && (
        <button
          type="button"
          class="button quiet small"
          onClick={() => {
            setFidelity(fidelity);
            keepFidelity(fidelity);
          }}
        >
          {texts.fidelityApply(inWords(fidelity))}
        </button>
      )}
    </div>
  );
}

function inWords(value: number): string {
  return formatNumber(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

function words(isOther: boolean) {
  const texts = t.value.create;
  const view = inView.value;
  if (!view) return "";
  if (view.problem) return <SaidProblem problem={view.problem} />;
  if (view.isWorking) return texts.fidelityWorks;
  if (isOther) return texts.fidelityOther(inWords(view.fidelity));
  if (view.effect === "acts") return form.value.restoreFaces ? texts.fidelityActs : texts.fidelityActsAlone;
  if (view.effect === "no-drawing") return texts.fidelityNoDrawing;
  if (view.effect === "no-face") return texts.fidelityNoFace(view.reason ? describeReason(view.reason) : "");
  return "";
}
