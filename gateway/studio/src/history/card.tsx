import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Icon } from "../parts/icon";
import { stageOf } from "../parts/job-progress";
import { Said } from "../parts/said";
import { useAddress } from "../store/address";
import { announce } from "../store/announcer";
import { formatNumber, formatSeconds, formatTime, t } from "../store/appearance";
import { now } from "../store/clock";
import type { Entry } from "../store/entries";
import { jobState } from "../store/jobs";
import { expiryOf, mainJobOf } from "../store/keeping";
import { addressOf, goTo } from "../store/route";
import { again, cancel, deleteEntry } from "./actions";
import { describeProblem } from "../text/words";
import { type CardState, cardStateOf } from "./card-state";
import { useInView } from "./following";

/** One thing that was asked for: its picture, what became of it, and what can be done to it. */
export function Card({ entry }: { entry: Entry }) {
  const element = useInView(entry.id);
  const [busy, setBusy] = useState(false);
  const known = jobState(mainJobOf(entry)).value;
  const state = cardStateOf(entry, known);
  const title = titleOf(entry);
  const { common, history } = t.value;
  const tab = entry.kind === "creation" ? "create" : "restore";

  async function run(action: Promise<boolean>, said?: string) {
    setBusy(true);
    if ((await action) && said) announce(said);
    setBusy(false);
  }
  const ofThis = <span class="only-read-aloud">{history.of(title)}</span>;
  const picture = (
    <span class="history-picture">
      <Thumbnail blob={entry.thumbnail} />
      {state.kind === "active" && state.job.status === "in_progress" && (
        <span class="history-bar" style={{ transform: `scaleX(${state.job.progress})` }} />
      )}
    </span>
  );

  return (
    <li
      ref={element}
      class={`history-card ${state.kind}`}
      onKeyDown={(event) => event.repeat && event.key === "Enter" && event.preventDefault()} // held down, it asks once
    >
      {state.kind === "expired" ? (
        picture
      ) : (
        <a
          href={location.pathname + location.search + addressOf(tab, entry.id)}
          aria-label={history.open(title)}
          onClick={(event) => {
            if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab, another window
            event.preventDefault();
            goTo(tab, entry.id);
          }}
        >
          {picture}
        </a>
      )}
      <h3 title={title}>{title}</h3>
      <p class="history-words small">{known.offline ? history.offline : known.problem ? describeProblem(known.problem) : wordsOf(state)}</p>
      <p class="soft small tabular">
        {[formatTime(entry.createdAt), deletionOf(entry, state, known.job ? expiryOf(known.job) : null)]
          .filter(Boolean)
          .join(" · ")}
      </p>
      <div class="history-actions">
        {state.kind === "active" && (
          <button type="button" class="button quiet small" disabled={busy} onClick={() => run(cancel(entry))}>
            <Icon name="close" />
            <span>
              {common.cancel}
              {ofThis}
            </span>
          </button>
        )}
        {state.kind !== "active" && entry.kind === "creation" && (
          <button type="button" class="button quiet small" disabled={busy} onClick={() => run(again(entry))}>
            <Icon name="again" />
            <span>
              {entry.input.seed === undefined ? history.againVaried : history.againSame}
              {ofThis}
            </span>
          </button>
        )}
        <button
          type="button"
          class="button quiet small"
          disabled={busy}
          onClick={() => run(deleteEntry(entry), history.deleted)}
        >
          <Icon name="trash" />
          <span>
            {state.kind === "expired" ? history.remove : common.delete}
            {ofThis}
          </span>
        </button>
      </div>
    </li>
  );
}

function titleOf(entry: Entry): string {
  if (entry.kind === "photograph") return entry.fileName || t.value.history.photograph;
  return entry.input.prompt?.trim() || t.value.history.drawnAgain;
}

function wordsOf(state: CardState): ComponentChildren {
  const { history } = t.value;
  switch (state.kind) {
    case "expired":
      return history.expired;
    case "canceled":
      return history.canceled;
    case "failed":
      return state.message ? (
        <>
          {history.failed}: <Said>{state.message}</Said>
        </>
      ) : (
        history.failed
      );
    case "unknown":
      return history.unknown;
    case "found":
      return history.found(state.faces);
    case "active": {
      const stage = stageOf({ job: state.job });
      if (state.job.status === "queued") return stage;
      return history.percent(formatNumber(state.job.progress, { style: "percent" }), stage);
    }
    case "done":
      if (state.restored === null || state.faces === null) return history.pictures(state.pictures);
      return state.faces === 0 ? history.enlarged : history.restored(state.restored, state.faces);
  }
}

/** When the gateway deletes it, in words. */
function deletionOf(entry: Entry, state: CardState, ofJob: number | null): string {
  const at = ofJob ?? entry.expiresAt;
  if (at === null || !["done", "found", "unknown"].includes(state.kind)) return ""; // there is nothing to delete
  const seconds = (at - now.value) / 1000;
  return seconds > 0 ? t.value.history.deletedIn(formatSeconds(seconds)) : t.value.history.deletedNow;
}

function Thumbnail({ blob }: { blob: Blob | null }) {
  const url = useAddress(blob);
  return url ? <img src={url} alt="" /> : <Icon name="picture" />;
}
