import { useEffect, useState } from "preact/hooks";
import { Dialog } from "../parts/dialog";
import { Icon } from "../parts/icon";
import { announce } from "../store/announcer";
import { formatDay, t } from "../store/appearance";
import { now } from "../store/clock";
import { entries, entriesAreLost, entriesAreRead } from "../store/entries";
import { health } from "../store/health";
import { goTo } from "../store/route";
import { deleteEntries } from "./actions";
import { Card } from "./card";
import { byDay, daysAgo } from "./card-state";
import { DryingLine } from "./drying-line";
import { followInView } from "./following";
import "./history.css";

/** The tab "History": everything that this browser has asked for, newest first. `active`: it is in view. */
export function History({ active }: { active: boolean }) {
  const [asking, setAsking] = useState(false);
  useEffect(() => (active ? followInView() : undefined), [active]);
  if (!active || !(entriesAreRead.value || entriesAreLost.value)) return null;
  const texts = t.value.history;
  const all = entries.value;
  if (all.length === 0) return <Empty />;
  return (
    <div class="history">
      <header class="history-head">
        <p class="soft">{texts.count(all.length)}</p>
        <button type="button" class="button quiet small" onClick={() => setAsking(true)}>
          <Icon name="trash" />
          {texts.deleteEverything}
        </button>
      </header>
      {byDay(all).map(({ start, entries: ofDay }) => (
        <section key={start} aria-labelledby={`day-${start}`}>
          <h2 id={`day-${start}`}>{nameOfDay(start)}</h2>
          <ul class="history-cards">
            {ofDay.map((entry) => (
              <Card key={entry.id} entry={entry} />
            ))}
          </ul>
        </section>
      ))}
      <DeleteEverything open={asking} onClose={() => setAsking(false)} />
    </div>
  );
}

function nameOfDay(start: number): string {
  const ago = daysAgo(start, now.value);
  if (ago === 0) return t.value.history.today;
  if (ago === 1) return t.value.history.yesterday;
  return formatDay(start);
}

function Empty() {
  const texts = t.value.history;
  return (
    <div class="history-empty">
      <DryingLine />
      <h2>{texts.empty}</h2>
      <p class="soft">{texts.emptyNote}</p>
      <div class="row">
        {!health.value?.restores_only && (
          <button type="button" class="button" onClick={() => goTo("create")}>
            {texts.toCreate}
          </button>
        )}
        <button type="button" class="button" onClick={() => goTo("restore")}>
          {texts.toRestore}
        </button>
      </div>
    </div>
  );
}

function DeleteEverything({ open, onClose }: { open: boolean; onClose: () => void }) {
  const [busy, setBusy] = useState(false);
  const texts = t.value.history;

  async function confirm() {
    setBusy(true);
    const deleted = await deleteEntries(entries.value);
    setBusy(false);
    onClose();
    if (deleted) announce(texts.deletedAll);
  }

  return (
    <Dialog title={texts.deleteEverything} open={open} onClose={onClose}>
      <p>{texts.deleteEverythingNote}</p>
      <div class="row history-confirm">
        <button type="button" class="button" onClick={onClose}>
          {texts.keep}
        </button>
        <button type="button" class="button primary" disabled={busy} onClick={confirm}>
          {texts.deleteEverything}
        </button>
      </div>
    </Dialog>
  );
}
