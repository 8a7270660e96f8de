import { useState } from "preact/hooks";
import { Dialog } from "../parts/dialog";
import { t } from "../store/appearance";
import { readiness } from "../store/health";
import "./state.css";

/** What is working: one word in the header, the rest in a dialog. */
export function State() {
  const [open, setOpen] = useState(false);
  const word = t.value.state[readiness.value];
  return (
    <>
      <button type="button" class={`state-button button quiet ${readiness.value}`} onClick={() => setOpen(true)}>
        <span class="state-dot" aria-hidden="true" />
        <span class="state-word">
          <span class="only-read-aloud">{t.value.state.name}: </span>
          {word}
        </span>
      </button>
      <Dialog title={t.value.state.name} open={open} onClose={() => setOpen(false)}>
        <p>{word}</p>
      </Dialog>
    </>
  );
}
