import type { ComponentChildren } from "preact";
import type { Problem } from "../api/problem";
import { language } from "../store/appearance";
import { describeProblem } from "../text/words";

/** A sentence of the gateway: English, whatever the page's language is, and to be read aloud as such. */
export function Said({ children }: { children: ComponentChildren }) {
  return language.value === "en" ? <>{children}</> : <span lang="en">{children}</span>;
}

/** What went wrong, in the page's words if it has any, else in the gateway's. */
export function SaidProblem({ problem }: { problem: Problem }) {
  const text = describeProblem(problem);
  return text === problem.message ? <Said>{text}</Said> : <>{text}</>;
}
