import { announcements, dismiss, murmur } from "../store/announcer";
import { t } from "../store/appearance";
import { Icon } from "./icon";
import "./announcements.css";

/** What is told in passing. The live regions are always there: one that appears with its text is not read aloud. */
export function Announcements() {
  const shown = announcements.value;
  return (
    <>
      <p class="only-read-aloud" role="status">
        {murmur.value}
      </p>
      <div class="announcements" role="log" aria-live="polite" aria-label={t.value.common.messages}>
        {shown.map(({ id, text, kind }) => (
          <p key={id} class={kind}>
            <span>{text}</span>
            <button
              type="button"
              class="button quiet square small"
              aria-label={t.value.common.dismiss}
              onClick={() => dismiss(id)}
            >
              <Icon name="close" />
            </button>
          </p>
        ))}
      </div>
    </>
  );
}
