import { useState } from "preact/hooks";
import { Dialog } from "../parts/dialog";
import { Icon } from "../parts/icon";
import { useAddress } from "../store/address";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { photographs, type Photograph } from "../store/entries";
import { addressOf, goTo } from "../store/route";
import { type Arrival, arrivals, removeArrivals } from "./adding";
import { focusOn } from "./focus";
import { currentMark, describeMark } from "./marks";
import { removePhotographs } from "./queue";
import { Refused } from "./refused";
import "./contact-sheet.css";

/** All photographs of the tab, oldest first, with what state each is in. */
export function ContactSheet({ chosen }: { chosen: string | null }) {
  const shown = photographs.value.toReversed();
  const refused = arrivals.value.filter(({ state }) => state === "failed");
  const arriving = arrivals.value.filter(({ state }) => state !== "failed");
  return (
    <>
      <ul class="contact-sheet">
        {shown.map((photograph) => (
          <Thumbnail key={photograph.id} photograph={photograph} isChosen={photograph.id === chosen} />
        ))}
        {arriving.map((arrival) => (
          <Arriving key={arrival.id} arrival={arrival} />
        ))}
      </ul>
      <Refused refused={refused} />
    </>
  );
}

function Thumbnail({ photograph, isChosen }: { photograph: Photograph; isChosen: boolean }) {
  const { id, fileName, thumbnail } = photograph;
  const mark = currentMark(photograph);
  const words = describeMark(mark);
  const url = useAddress(thumbnail);
  const texts = t.value.restore.sheet;

  const [isAsking, setIsAsking] = useState(false);
  const hasResult = ["restored", "changed", "unchanged"].includes(mark.kind);

  async function remove() {
    setIsAsking(false);
    const shown = photographs.value.toReversed();
    const at = shown.findIndex((each) => each.id === id);
    const neighbor = shown[at + 1] ?? shown[at - 1];
    if (!(await removePhotographs([photograph]))) return;
    focusOn(neighbor ? `a[data-photograph="${neighbor.id}"]` : ".add-photographs input", ".add-photographs input");
    announce(texts.removed(fileName));
    if (isChosen) goTo("restore", null, { replace: true });
  }

  return (
    <li class={`contact ${mark.kind} ${isChosen ? "chosen" : ""}`}>
      <a
        href={location.pathname + location.search + addressOf("restore", id)}
        aria-current={isChosen ? "true" : undefined}
        title={fileName}
        data-photograph={id}
        onClick={(event) => {
          event.preventDefault();
          goTo("restore", id);
        }}
      >
        <span class="contact-frame">{url && <img src={url} alt="" />}</span>
        <span class="contact-name small">{fileName}</span>
        <span class="only-read-aloud">: </span>
        <span class="contact-mark small">{words}</span>
      </a>
      {mark.kind === "restoring" && (
        <span class="contact-bar" aria-hidden="true">
          <span style={{ transform: `scaleX(${Math.max(0.06, mark.share)})` }} />
        </span>
      )}
      <button
        type="button"
        class="contact-remove"
        aria-label={texts.remove(fileName)}
        onClick={() => (hasResult ? setIsAsking(true) : void remove())}
      >
        <Icon name="close" />
      </button>
      <Dialog title={texts.removeReally(fileName)} open={isAsking} onClose={() => setIsAsking(false)}>
        <p>{texts.removeLost}</p>
        <div class="row">
          <button type="button" class="button primary" onClick={() => void remove()}>
            {texts.removeYes}
          </button>
          <button type="button" class="button" onClick={() => setIsAsking(false)}>
            {texts.removeNo}
          </button>
        </div>
      </Dialog>
    </li>
  );
}

/** What is not with the gateway yet. */
function Arriving({ arrival }: { arrival: Arrival }) {
  const { name, state } = arrival;
  const { marks, remove } = t.value.restore.sheet;
  return (
    <li class={`contact arriving ${state}`} title={name}>
      <span class="contact-frame" />
      <span class="contact-name small">{name}</span>
      <span class="only-read-aloud">: </span>
      <span class="contact-mark small">{state === "uploading" ? marks.uploading : marks.queued}</span>
      <button
        type="button"
        class="contact-remove"
        aria-label={remove(name)}
        onClick={() => {
          removeArrivals([arrival]);
          focusOn(".contact.arriving .contact-remove", ".add-photographs input");
        }}
      >
        <Icon name="close" />
      </button>
    </li>
  );
}

