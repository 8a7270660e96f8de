import { t } from "../store/appearance";
import { SHAPES, type Shape, shapeOf } from "./form";
import { change, form } from "./state";
import "./shape-choice.css";

const LONGEST = 1344;

/** The picture's size by its shape; any other size is under "More". */
export function ShapeChoice() {
  const texts = t.value.create;
  const { width, height } = form.value;
  const chosen = shapeOf(form.value);
  return (
    <fieldset class="shape-choice">
      <legend class="name">
        <span>{texts.shape}</span>
        <span class="soft tabular">{texts.size(width, height)}</span>
      </legend>
      <div class="shapes">
        {(Object.keys(SHAPES) as Shape[]).map((shape) => {
          const [wide, high] = SHAPES[shape];
          return (
            <label key={shape}>
              <input
                type="radio"
                name="shape"
                checked={chosen === shape}
                onChange={() => change({ width: String(wide), height: String(high) })}
              />
              <span class="drawn" aria-hidden="true">
                <span style={{ inlineSize: `${(100 * wide) / LONGEST}%`, aspectRatio: `${wide} / ${high}` }} />
              </span>
              <span class="word">{texts.shapes[shape]}</span>
            </label>
          );
        })}
      </div>
    </fieldset>
  );
}
