import { Icon } from "../parts/icon";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { change, form, seedInView } from "./state";
import { TextField } from "./text-field";

/** Which noise the drawing begins with. */
export function SeedField() {
  const texts = t.value.create;
  const seed = seedInView.value;
  return (
    <div class="seed-field">
      <TextField of="seed" name={texts.seed} placeholder={texts.seedRandom} numeric />
      <div class="row">
        {form.value.seed !== "" && (
          <button type="button" class="button quiet small" onClick={() => change({ seed: "" })}>
            <Icon name="dice" />
            {texts.seedClear}
          </button>
        )}
        {seed !== null && form.value.seed !== String(seed) && (
          <button
            type="button"
            class="button quiet small"
            onClick={() => {
              change({ seed: String(seed) });
              announce(texts.seedTaken(String(seed)));
            }}
          >
            {texts.sameSeed}
          </button>
        )}
      </div>
    </div>
  );
}
