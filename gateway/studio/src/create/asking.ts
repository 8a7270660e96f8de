/** Asks for drawings for the form, and tells what was wrong with what it asked. */
import { effect } from "@preact/signals";
import { Problem } from "../api/problem";
import { announce, say } from "../store/announcer";
import { t } from "../store/appearance";
import { healthProblem } from "../store/health";
import { keyIsMissing } from "../store/key";
import { route } from "../store/route";
import { describeProblem } from "../text/words";
import { goToFirstError } from "./field-error";
import { toInput } from "./form";
import { ASKING, generate, isAsking } from "./generate";
import { errors, forgive, form, former, isNarrow, NO_PROMPT, problem, refuse } from "./state";

/** `false`: nothing was asked for, and the person has been told why. */
type Ask = () => Promise<void | boolean>;

/** What goes on once there is a key. */
let held: Ask | null = null;

/** Ask for what the form says; what is wrong with it is told at its fields. */
export async function draw(): Promise<void> {
  if (isAsking.value) return;
  forgive();
  if (!form.value.prompt.trim()) {
    errors.value = { prompt: NO_PROMPT };
    await drawn();
    goToFirstError();
    return;
  }
  await attempt(() => generate(toInput(form.value)));
}

/** Do what asks for a drawing; what is refused is told in the form. */
export async function attempt(ask: Ask): Promise<void> {
  held = null;
  try {
    if ((await ask()) === false) return;
    former.value = null;
    problem.value = null;
    if (route.value.tab !== "create") return;
    say(t.value.create.asked);
    if (isNarrow.value) document.querySelector(".create-picture")?.scrollIntoView({ block: "start" });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.code === ASKING) {
      announce(describeProblem(error));
      return;
    }
    if (error.status === 401) {
      held = ask;
      await drawn();
      document.querySelector<HTMLElement>(".key-notice button")?.focus(); // the one place that leads to the key
      return;
    }
    refuse(error);
    if (problem.value && isNarrow.value) announce(describeProblem(problem.value), "error"); // the form may be far away
    await drawn();
    goToFirstError();
  }
}

/** Once the page shows what the signals say. */
function drawn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

effect(() => {
  if (keyIsMissing.value || !held) return;
  const ask = held;
  queueMicrotask(() => void attempt(ask)); // not within the effect
});

let wasAway = false;
effect(() => {
  const isAway = healthProblem.value !== null;
  if (wasAway && !isAway && problem.peek()?.isOffline) problem.value = null; // its cause has gone
  wasAway = isAway;
});
