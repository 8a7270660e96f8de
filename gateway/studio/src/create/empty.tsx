import { t } from "../store/appearance";
import picture from "./red-hair.webp";
import { change, form, replaceForm } from "./state";
import "./empty.css";

/** Before anything was drawn: what the page does, in one picture, and how to begin. */
export function Empty() {
  const texts = t.value.create;
  return (
    <section class="create-empty">
      <figure>
        <img src={picture} alt={texts.emptyAlt} width={480} height={480} />
        <figcaption aria-hidden="true">
          <span>{texts.emptyLeft}</span>
          <span>{texts.emptyRight}</span>
        </figcaption>
      </figure>
      <div class="words">
        <h2>{texts.emptyTitle}</h2>
        <p class="soft">{texts.emptyText}</p>
        <p class="small soft">{texts.examples}</p>
        <ul>
          {texts.examplePrompts.map((prompt) => (
            <li key={prompt}>
              <button
                type="button"
                onClick={() => {
                  if (form.value.prompt.trim()) replaceForm({ ...form.value, prompt });
                  else change({ prompt });
                  document.getElementById("create-prompt")?.focus();
                }}
              >
                {prompt}
              </button>
            </li>
          ))}
        </ul>
      </div>
    </section>
  );
}
