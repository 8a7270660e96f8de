import { useState } from "preact/hooks";
import { Notice } from "../parts/notice";
import { t } from "../store/appearance";
import { askHealth } from "../store/health";
import { setApiKey } from "../store/key";

/** Asks for the key that the gateway wants, where it was wanted. */
export function KeyNeeded({ onKey }: { onKey: () => void }) {
  const texts = t.value.create;
  const [key, setKey] = useState("");
  function use() {
    if (!key.trim()) return;
    setApiKey(key);
    void askHealth();
    onKey();
  }
  return (
    <Notice kind="warning" live>
      <p>{texts.apiKeyWanted}</p>
      <div class="field">
        <label class="name" for="create-api-key">
          {texts.apiKey}
        </label>
        <input
          id="create-api-key"
          class="input"
          type="password"
          autoComplete="off"
          value={key}
          onInput={(event) => setKey(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter") return;
            event.preventDefault(); // the form would ask without it
            use();
          }}
        />
      </div>
      <button type="button" class="button small" onClick={use}>
        {texts.apiKeyUse}
      </button>
    </Notice>
  );
}
