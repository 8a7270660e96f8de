/** Where the person is: `#create`, `#create/job_...`, `#restore/job_...`, `#history`. It survives a reload. */
import { signal } from "@preact/signals";

export type Tab = "create" | "restore" | "history";
export interface Route {
  tab: Tab;
  /** The entry in view. */
  id: string | null;
}

const TABS: readonly string[] = ["create", "restore", "history"] satisfies Tab[];

export function readRoute(hash: string): Route {
  const [tab = "", id = ""] = hash.replace(/^#/, "").split("/");
  return {
    tab: TABS.includes(tab) ? (tab as Tab) : "create",
    id: /^job_[0-9a-f]{44}$/.test(id) ? id : null,
  };
}

export const route = signal<Route>(readRoute(location.hash));

addEventListener("hashchange", () => {
  route.value = readRoute(location.hash);
});

export function addressOf(tab: Tab, id: string | null = null): string {
  return id === null ? `#${tab}` : `#${tab}/${id}`;
}

export function goTo(tab: Tab, id: string | null = null, { replace = false } = {}): void {
  const address = addressOf(tab, id);
  if (address === location.hash) return;
  // With a <base>, a bare fragment would lead to another document where the page has a path.
  if (replace) history.replaceState(null, "", location.pathname + location.search + address);
  else history.pushState(null, "", location.pathname + location.search + address);
  route.value = { tab, id };
}
