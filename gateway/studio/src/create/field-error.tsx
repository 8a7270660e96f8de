import type { Form } from "./form";
import { errors } from "./state";

/** What the gateway said of a field. */
export function FieldError({ of }: { of: keyof Form }) {
  const error = errors.value[of];
  return error === undefined ? null : (
    <p id={`create-${of}-error`} class="field-error" role="alert">
      {error}
    </p>
  );
}

/** The IDs of what describes a field. */
export function describedBy(of: keyof Form, hint?: string): string | undefined {
  const ids = [errors.value[of] === undefined ? "" : `create-${of}-error`, hint ?? ""].filter(Boolean);
  return ids.length > 0 ? ids.join(" ") : undefined;
}
