import type { Problem } from "../api/problem";
import { Icon } from "../parts/icon";
import { useAddress } from "../store/address";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { photographs, type Photograph } from "../store/entries";
import { addressOf, goTo } from "../store/route";
import { describeProblem } from "../text/words";
import { type Arrival, arrivals, removeArrival, retryArrival } from "./adding";
import { currentMark, describeMark } from "./marks";
import { removePhotographs } from "./queue";
import "./contact-sheet.css";

/** All photographs of the tab, oldest first, with what state each is in. */
export function ContactSheet({ chosen }: { chosen: string | null }) {
  const shown = photographs.value.toReversed();
  return (
    <ul class="contact-sheet">
      {shown.map((photograph) => (
        <Thumbnail key={photograph.id} photograph={photograph} isChosen={photograph.id === chosen} />
      ))}
      {arrivals.value.map((arrival) => (
        <Arriving key={arrival.id} arrival={arrival} />
      ))}
    </ul>
  );
}

function Thumbnail({ photograph, isChosen }: { photograph: Photograph; isChosen: boolean }) {
  const { id, fileName, thumbnail } = photograph;
  const mark = currentMark(photograph);
  const words = describeMark(mark);
  const url = useAddress(thumbnail);
  const texts = t.value.restore.sheet;

  async function remove() {
    if (!(await removePhotographs([photograph]))) return;
    announce(texts.removed(fileName));
    if (isChosen) goTo("restore", null, { replace: true });
  }

  return (
    <li class={`contact ${mark.kind} ${isChosen ? "chosen" : ""}`}>
      <a
        href={location.pathname + location.search + addressOf("restore", id)}
        aria-current={isChosen ? "true" : undefined}
        title={fileName}
        onClick={(event) => {
          event.preventDefault();
          goTo("restore", id);
        }}
      >
        <span class="contact-frame">{url && <img src={url} alt="" />}</span>
        <span class="only-read-aloud">{fileName}: </span>
        <span class="contact-mark small">{words}</span>
      </a>
      {mark.kind === "restoring" && (
        <span class="contact-bar" aria-hidden="true">
          <span style={{ transform: `scaleX(${Math.max(0.06, mark.share)})` }} />
        </span>
      )}
      <button type="button" class="contact-remove" aria-label={texts.remove(fileName)} onClick={() => void remove()}>
        <Icon name="close" />
      </button>
    </li>
  );
}

/** What is not with the gateway yet, or was refused by it. */
function Arriving({ arrival }: { arrival: Arrival }) {
  const texts = t.value.restore.sheet;
  const { id, file, state, problem } = arrival;
  if (problem) {
    return (
      <li class="contact refused">
        <p class="small" role="alert">
          <strong>{texts.notAdded(file.name)}</strong> {reasonOf(problem)}
        </p>
        <div class="row">
          <button type="button" class="button small" onClick={() => retryArrival(id)}>
            {t.value.common.retry}
          </button>
          <button
            type="button"
            class="button quiet square small"
            aria-label={texts.remove(file.name)}
            onClick={() => removeArrival(id)}
          >
            <Icon name="close" />
          </button>
        </div>
      </li>
    );
  }
  return (
    <li class={`contact arriving ${state}`} title={file.name}>
      <span class="contact-frame" />
      <span class="only-read-aloud">{file.name}: </span>
      <span class="contact-mark small">{state === "uploading" ? texts.marks.uploading : texts.marks.queued}</span>
    </li>
  );
}

/** What is wrong with the file, in the gateway's words, without the name of the field that it came in. */
function reasonOf(problem: Problem): string {
  const [field] = problem.fields;
  if (!field || problem.fields.length > 1) return describeProblem(problem);
  return `${field.message.charAt(0).toUpperCase()}${field.message.slice(1)}.`;
}
