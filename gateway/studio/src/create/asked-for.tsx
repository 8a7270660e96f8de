import type { GenerateInput } from "../api/types";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { Facts } from "./facts";
import { fromInput } from "./form";
import { factsOf } from "./recipe";
import { replaceForm } from "./state";
import "./asked-for.css";

/** What a picture was asked for with, to read and to take over. */
export function AskedFor({ input }: { input: GenerateInput }) {
  const texts = t.value.create;
  return (
    <details class="asked-for">
      <summary>
        <span class="prompt">{input.prompt || texts.settings}</span>
      </summary>
      <Facts facts={factsOf(input)} areFields name={texts.settings} />
      <button
        type="button"
        class="button small"
        onClick={() => {
          replaceForm(fromInput(input));
          announce(texts.settingsUsed);
        }}
      >
        {texts.settingsUse}
      </button>
    </details>
  );
}
