import { Slider } from "../parts/slider";
import { formatNumber, t } from "../store/appearance";
import { describeProblem, describeReason } from "../text/words";
import { FieldError } from "./field-error";
import { form, inView, setFidelity } from "./state";

/** How far faces are restored: those of the next picture, and of the finished one in view. */
export function FidelitySlider() {
  const texts = t.value.create;
  return (
    <div class="fidelity-slider">
      <Slider
        name={texts.fidelity}
        value={form.value.fidelity}
        step={0.05}
        low={texts.fidelityLow}
        high={texts.fidelityHigh}
        format={(value) => formatNumber(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 })}
        onInput={setFidelity}
      />
      <FieldError of="fidelity" />
      <p class="small soft" role="status">
        {words()}
      </p>
    </div>
  );
}

function words(): string {
  const texts = t.value.create;
  const view = inView.value;
  if (!view) return "";
  if (view.problem) return describeProblem(view.problem);
  if (view.isWorking) return texts.fidelityWorks;
  if (view.effect === "acts") return texts.fidelityActs;
  if (view.effect === "no-drawing") return texts.fidelityNoDrawing;
  if (view.effect === "no-face") return texts.fidelityNoFace(view.reason ? describeReason(view.reason) : "");
  return "";
}
