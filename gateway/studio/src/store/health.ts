/** What is working, asked for every few seconds while the page is in view. */
import { computed, signal } from "@preact/signals";
import { getHealth } from "../api/client";
import { Problem } from "../api/problem";
import type { Health } from "../api/types";
import { keyIsMissing } from "./key";

const EVERY_MS = 5000;

/** What the gateway said last; null before its first answer. */
export const health = signal<Health | null>(null);
/** Why it cannot be asked now. */
export const healthProblem = signal<Problem | null>(null);

export type Readiness = "unknown" | "offline" | "key" | "loading" | "no_jobs" | "partly" | "ready";

/** In one word, for the header. */
export const readiness = computed<Readiness>(() => {
  if (keyIsMissing.value) return "key";
  if (healthProblem.value) return healthProblem.value.status === 401 ? "key" : "offline";
  if (!health.value) return "unknown";
  if (health.value.status === "unhealthy") return "loading";
  if (health.value.jobs_available === false) return "no_jobs";
  return health.value.status === "degraded" ? "partly" : "ready";
});

/** Whether a network of a role is loaded; true while nothing is known, so that nobody is warned too early. */
export function has(role: string): boolean {
  return health.value === null || (health.value.networks ?? []).some((network) => network.role === role);
}

export async function askHealth(): Promise<void> {
  try {
    health.value = await getHealth();
    healthProblem.value = null;
  } catch (error) {
    healthProblem.value = error instanceof Problem ? error : new Problem(0, "offline", String(error));
  }
}

/** Ask now and from now on; return what ends it. */
export function watchHealth(): () => void {
  const ask = () => !document.hidden && void askHealth();
  ask();
  const timer = setInterval(ask, EVERY_MS);
  document.addEventListener("visibilitychange", ask);
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", ask);
  };
}
