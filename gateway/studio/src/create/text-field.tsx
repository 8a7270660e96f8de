import { FieldError, describedBy } from "./field-error";
import type { Form } from "./form";
import { change, errors, form } from "./state";

type TextName = { [K in keyof Form]: Form[K] extends string ? K : never }[keyof Form];

interface Props {
  of: TextName;
  name: string;
  placeholder?: string;
  /** What is typed is a number. */
  numeric?: boolean;
}

/** A field of one line, with what is wrong with it. */
export function TextField({ of, name, placeholder, numeric }: Props) {
  const id = `create-${of}`;
  return (
    <div class="field">
      <label class="name" for={id}>
        {name}
      </label>
      <input
        id={id}
        class="input tabular"
        type="text"
        inputMode={numeric ? "decimal" : undefined}
        autoComplete="off"
        placeholder={placeholder}
        value={form.value[of]}
        aria-invalid={errors.value[of] !== undefined}
        aria-describedby={describedBy(of)}
        onInput={(event) => change({ [of]: event.currentTarget.value })}
      />
      <FieldError of={of} />
    </div>
  );
}
