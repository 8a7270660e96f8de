import { formatNumber, t } from "../store/appearance";
import { MODEL_SET, SEED, type Told } from "./recipe";
import "./facts.css";

interface Props {
  facts: Told["facts"];
  /** Their names are fields of the gateway's requests; otherwise they are shown as they are. */
  areFields: boolean;
  name: string;
}

/** How a picture was made, or is to be: names and values. */
export function Facts({ facts, areFields, name }: Props) {
  if (facts.length === 0) return null;
  return (
    <dl class="facts small" tabIndex={0} aria-label={name}>
      {facts.map(([of, value]) => (
        <div key={of}>
          <dt class="soft">{areFields ? nameOf(of) : of}</dt>
          <dd class="tabular">{areFields ? inWords(value) : value}</dd>
        </div>
      ))}
    </dl>
  );
}

function inWords(value: string): string {
  const { yes, no } = t.value.create;
  if (value === "true" || value === "false") return value === "true" ? yes : no;
  const isShortNumber = /^-?\d{1,15}(\.\d{1,4})?$/.test(value);
  return isShortNumber ? formatNumber(Number(value), { useGrouping: false, maximumFractionDigits: 4 }) : value;
}

/** The form's name of one of the gateway's fields; what the form has no field for keeps the gateway's. */
function nameOf(field: string): string {
  const texts = t.value.create;
  const names: Record<string, string> = {
    [SEED]: texts.seed,
    [MODEL_SET]: texts.modelSet,
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
