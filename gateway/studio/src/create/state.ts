/** What is in the form, and what is wrong with it: kept for this tab of the browser, so that a reload loses nothing. */
import { effect, signal } from "@preact/signals";
import type { Problem } from "../api/problem";
import type { SkipReason } from "../api/types";
import { changeEntry, type Creation } from "../store/entries";
import { keep, recall } from "../store/storage";
import { FIELDS, type Form, readForm } from "./form";

const NAME = "atelier.create";

export const form = signal<Form>(readForm(recall(NAME, "session")));
/** In place of what the gateway would say: there is no prompt. */
export const NO_PROMPT = "";

/** What the gateway said of fields, by the form's names. */
export const errors = signal<Readonly<Partial<Record<keyof Form, string>>>>({});
/** The creation whose picture the slider "Fidelity" acts on, or why it acts on none. */
export interface InView {
  id: string;
  effect: "later" | "acts" | "no-drawing" | "no-face";
  /** Why no face was restored. */
  reason: SkipReason | null;
  /** The one that it is shown at. */
  fidelity: number;
  isWorking: boolean;
  problem: Problem | null;
}
export const inView = signal<InView | null>(null);
/** Fidelities that were chosen for pictures after these had been asked for, by the creation's ID. */
export const chosen = signal<ReadonlyMap<string, number>>(new Map());

/** Keep the fidelity of the picture in view, once the slider rests: a reload shows it as it was left. */
export function keepFidelity(fidelity: number): void {
  const view = inView.value;
  if (view?.effect !== "acts" && view?.effect !== "later") return;
  void changeEntry<Creation>(view.id, (entry) => ({ ...entry, fidelity }));
}

/** Move the slider: for the next picture, and for the one in view. */
export function setFidelity(fidelity: number): void {
  change({ fidelity });
  const effect = inView.value?.effect;
  if (inView.value && (effect === "acts" || effect === "later")) {
    chosen.value = new Map(chosen.value).set(inView.value.id, fidelity);
  }
}

const narrow = matchMedia("(max-width: 63.99rem)");
/** The picture is below the form, not beside it. */
export const isNarrow = signal(narrow.matches);
narrow.addEventListener("change", () => (isNarrow.value = narrow.matches));

/** What is wrong besides. */
export const problem = signal<Problem | null>(null);

effect(() => keep(NAME, JSON.stringify(form.value), "session"));

/** Change fields; what was wrong with them may no longer be. */
export function change(fields: Partial<Form>): void {
  form.value = { ...form.value, ...fields };
  const still = Object.entries(errors.value).filter(([name]) => !(name in fields));
  errors.value = Object.fromEntries(still);
  if (problem.value && !problem.value.isTemporary) problem.value = null;
}

/** The form as it was before something took its place at once; null: nothing has. */
export const former = signal<Form | null>(null);

/** Fill the form anew; what was in it can be had back. */
export function replaceForm(next: Form): void {
  former.value = form.value;
  forgive();
  form.value = next;
}

/** Take the form back that was replaced. */
export function undo(): void {
  if (former.value) form.value = former.value;
  former.value = null;
  forgive();
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

/** The seed of the picture in view. */
export const seedInView = signal<number | null>(null);
