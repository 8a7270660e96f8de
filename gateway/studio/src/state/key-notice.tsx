import { Notice } from "../parts/notice";
import { t } from "../store/appearance";
import { keyIsMissing } from "../store/key";
import { stateIsOpen } from "./open";

/** Says, on every tab, that nothing works without a key, and leads to where it is entered. */
export function KeyNotice() {
  if (!keyIsMissing.value) return null;
  return (
    <Notice kind="warning" live>
      <div class="key-notice">
        <span>{t.value.state.keyMissing}</span>
        <button type="button" class="button small" onClick={() => (stateIsOpen.value = true)}>
          {t.value.state.enterKey}
        </button>
      </div>
    </Notice>
  );
}
