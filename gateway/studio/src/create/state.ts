/** What is in the form, and what is wrong with it: kept for this tab of the browser, so that a reload loses nothing. */
import { effect, signal } from "@preact/signals";
import { Problem } from "../api/problem";
import { FIELDS, type Form, readForm } from "./form";

const NAME = "atelier.create";

export const form = signal<Form>(readForm(sessionStorage.getItem(NAME)));
/** What the gateway said of fields, by the form's names. */
export const errors = signal<Readonly<Partial<Record<keyof Form, string>>>>({});
/** What is wrong besides. */
export const problem = signal<Problem | null>(null);

effect(() => {
  try {
    sessionStorage.setItem(NAME, JSON.stringify(form.value));
  } catch {
    // the browser keeps nothing for this page
  }
});

/** Change fields; what was wrong with them may no longer be. */
export function change(fields: Partial<Form>): void {
  form.value = { ...form.value, ...fields };
  const still = Object.entries(errors.value).filter(([name]) => !(name in fields));
  errors.value = Object.fromEntries(still);
}

/** Take in why a request was refused: each field's error to its field. */
export function refuse(refusal: Problem): void {
  const found: Partial<Record<keyof Form, string>> = {};
  let all = refusal.fields.length > 0;
  for (const { field, message } of refusal.fields) {
    const own = FIELDS[field.replace(/^input\./, "")];
    if (own) found[own] = message;
    else all = false;
  }
  errors.value = found;
  problem.value = all ? null : refusal;
}

export function forgive(): void {
  errors.value = {};
  problem.value = null;
}
