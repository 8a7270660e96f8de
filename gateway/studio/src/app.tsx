import { useEffect } from "preact/hooks";
import { Create } from "./create/create";
import { History } from "./history/history";
import { Announcements } from "./parts/announcements";
import { Notice } from "./parts/notice";
import { Restore } from "./restore/restore";
import { KeyNotice } from "./state/key-notice";
import { State } from "./state/state";
import { t } from "./store/appearance";
import { entriesAreLost } from "./store/entries";
import { health, watchHealth } from "./store/health";
import { goTo, route, type Tab } from "./store/route";
import "./app.css";

const TABS: readonly Tab[] = ["create", "restore", "history"];

/** The whole page: the header with its tabs, and the tab in view. A tab that is left keeps what is in its fields. */
export function App() {
  useEffect(watchHealth, []);
  const restoresOnly = health.value?.restores_only ?? false;
  const tabs = restoresOnly ? TABS.filter((tab) => tab !== "create") : TABS;
  const tab = restoresOnly && route.value.tab === "create" ? "restore" : route.value.tab;
  useEffect(() => {
    document.title = `${t.value.tabs[tab]} - ${t.value.name}`;
  });

  function onKeyDown(event: KeyboardEvent) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    if (!next) return;
    goTo(next);
    document.getElementById(`tab-${next}`)?.focus();
  }

  return (
    <>
      <header class="app-header">
        <h1 class="wordmark" translate={false}>
          {t.value.name}
        </h1>
        <div class="tabs" role="tablist" aria-label={t.value.tabs.label} onKeyDown={onKeyDown}>
          {tabs.map((each) => (
            <button
              key={each}
              type="button"
              id={`tab-${each}`}
              role="tab"
              aria-selected={each === tab}
              aria-controls={`panel-${each}`}
              tabIndex={each === tab ? 0 : -1}
              onClick={() => goTo(each)}
            >
              {t.value.tabs[each]}
            </button>
          ))}
        </div>
        <State />
      </header>
      <main>
        <KeyNotice />
        {entriesAreLost.value && <Notice kind="warning">{t.value.problems.lost}</Notice>}
        {tabs.map((each) => (
          <div key={each} id={`panel-${each}`} role="tabpanel" aria-labelledby={`tab-${each}`} hidden={each !== tab}>
            {each === "create" ? (
              <Create active={tab === "create"} />
            ) : each === "restore" ? (
              <Restore active={tab === "restore"} />
            ) : (
              <History active={tab === "history"} />
            )}
          </div>
        ))}
      </main>
      <Announcements />
    </>
  );
}
