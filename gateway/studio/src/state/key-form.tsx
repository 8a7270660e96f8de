import type { TargetedSubmitEvent } from "preact";
import { useId, useState } from "preact/hooks";
import { checkKey } from "../api/client";
import { Problem } from "../api/problem";
import { t } from "../store/appearance";
import { askHealth } from "../store/health";
import { apiKey, keyIsMissing, setApiKey } from "../store/key";
import { describeProblem } from "../text/words";

/** The API key: always there, and marked where the gateway wants one. */
export function KeyForm() {
  const [text, setText] = useState(apiKey.value);
  const [shown, setShown] = useState(false);
  const [busy, setBusy] = useState(false);
  const [unfit, setUnfit] = useState(false);
  const [said, setSaid] = useState(""); // in the dialog: what is behind it is not seen
  const id = useId();
  const texts = t.value.state;
  const isWrong = unfit || keyIsMissing.value;
  const type = (shown ? "text" : "password") as "text"; // Preact's types know either, not a choice of both

  async function save(event: TargetedSubmitEvent<HTMLFormElement>) {
    event.preventDefault();
    setSaid("");
    setUnfit(!setApiKey(text));
    if (apiKey.value !== text.trim()) return;
    setBusy(true);
    keyIsMissing.value = false; // until the gateway says otherwise
    try {
      await checkKey();
      setSaid(apiKey.value ? texts.keySaved : texts.keyRemoved);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 501) setSaid(texts.keySaved); // a gateway without jobs
      else if (error.status !== 401) setSaid(describeProblem(error));
    }
    await askHealth();
    setBusy(false);
  }

  return (
    <form class="key-form" onSubmit={save} autocomplete="off">
      <div class="field">
        <label class="name" for={id}>
          {texts.keyName}
        </label>
        <div class="key-form-row">
          <input
            id={id}
            class="input"
            type={type}
            value={text}
            autocomplete="off"
            autocapitalize="off"
            spellcheck={false}
            aria-invalid={isWrong}
            aria-describedby={`${id}-note`}
            onInput={(event) => {
              setText(event.currentTarget.value);
              setUnfit(false);
            }}
          />
          <button
            type="button"
            class="button quiet"
            aria-pressed={shown}
            onClick={() => setShown(!shown)}
          >
            {shown ? texts.hide : texts.show}
          </button>
          <button type="submit" class="button" disabled={busy}>
            {texts.save}
          </button>
        </div>
      </div>
      <p id={`${id}-note`} class={`small ${isWrong ? "key-form-wrong" : "soft"}`} role={isWrong ? "alert" : undefined}>
        {unfit ? texts.keyUnfit : isWrong ? (apiKey.value ? texts.keyRefused : texts.keyMissing) : texts.keyNote}
      </p>
      <p class="small" role="status">
        {said}
      </p>
    </form>
  );
}
