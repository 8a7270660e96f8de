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

/** A file that is dropped where nobody takes it would be opened by the browser in the page's place. */
function keepPage(): () => void {
  const refuse = (event: DragEvent) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    const isField = event.target instanceof HTMLInputElement && event.target.type === "file"; // takes it itself
    if (!isField) event.preventDefault();
  };
  addEventListener("dragover", refuse);
  addEventListener("drop", refuse);
  return () => {
    removeEventListener("dragover", refuse);
    removeEventListener("drop", refuse);
  };
}

/** The whole page: the header with its tabs, and the tab in view. A tab that is left keeps what is in its fields. */
export function App() {
  useEffect(watchHealth, []);
  useEffect(keepPage, []);
  const restoresOnly = health.value?.restores_only ?? false;
  const tabs = restoresOnly ? TABS.filter((tab) => tab !== "create") : TABS;
  const tab = restoresOnly && route.value.tab === "create" ? "restore" : route.value.tab;
  useEffect(() => {
    document.title = `${t.value.tabs[tab]} - ${t.value.name}`;
  });

  function onKeyDown(event: KeyboardEvent) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser's
    const at = tabs.indexOf(tab);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    const next = to === undefined ? undefined : tabs.at(to % tabs.length);
    if (!next) return;
    event.preventDefault();
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
