import { Said } from "../parts/said";
import { t } from "../store/appearance";
import type { Form } from "./form";
import { errors, NO_PROMPT } from "./state";

/** What the gateway said of a field. The focus goes to the first such field, which it describes. */
export function FieldError({ of }: { of: keyof Form }) {
  const error = errors.value[of];
  return error === undefined ? null : (
    <p id={`create-${of}-error`} class="field-error">
      {error === NO_PROMPT ? t.value.create.promptMissing : <Said>{error}</Said>}
    </p>
  );
}

/** The IDs of what describes a field. */
export function describedBy(of: keyof Form, hint?: string): string | undefined {
  const ids = [errors.value[of] === undefined ? "" : `create-${of}-error`, hint ?? ""].filter(Boolean);
  return ids.length > 0 ? ids.join(" ") : undefined;
}

/** Bring the first field that is wrong into view, wherever it is, and the focus into it. */
export function goToFirstError(): void {
  const error = document.querySelector<HTMLElement>("#panel-create .field-error");
  if (!error) return;
  const folded = error.closest("details");
  if (folded) folded.open = true;
  const control =
    document.querySelector<HTMLElement>(`[aria-describedby~="${error.id}"]`) ??
    error.parentElement?.querySelector<HTMLElement>("input, button, select, textarea");
  control?.focus({ preventScroll: true });
  error.scrollIntoView({ block: "center" });
}
