import { useEffect } from "preact/hooks";
import type { Problem } from "../api/problem";
import { Notice } from "../parts/notice";
import { t } from "../store/appearance";
import { entriesAreRead, photographs, type Photograph } from "../store/entries";
import { health, readiness } from "../store/health";
import { route } from "../store/route";
import { describeProblem } from "../text/words";
import { arrivals, hasNoJobs, uploadHoldUp } from "./adding";
import { AddPhotographs, DropTarget } from "./add-photographs";
import { Batch } from "./batch";
import { ContactSheet } from "./contact-sheet";
import { followPhotographs } from "./following";
import { PhotographView } from "./photograph-view";
import { restorationHoldUp } from "./queue";
import { Welcome } from "./welcome";
import "./restore.css";

let lastInView: string | null = null;

/** The photograph that the address names, otherwise the one in view before, otherwise the first of the contact sheet. */
function photographInView(): Photograph | null {
  const { tab, id } = route.value;
  const named = tab === "restore" && id !== null ? id : lastInView;
  const found = photographs.value.find((each) => each.id === named) ?? photographs.value.at(-1) ?? null;
  lastInView = found?.id ?? null;
  return found;
}

function isRestorerAway(): boolean {
  return readiness.value === "partly" || (readiness.value === "loading" && health.value?.codeformer_available === false);
}

/** Why something waits: an upload, or a restoration. */
function whatIsHeld(): Problem | null {
  const isUploading = arrivals.value.some(({ state }) => state !== "failed");
  const isWanted = photographs.value.some(({ wanted }) => wanted);
  return (isUploading ? uploadHoldUp.problem.value : null) ?? (isWanted ? restorationHoldUp.problem.value : null);
}

/** The tab "Restore". `active`: it is in view. */
export function Restore({ active }: { active: boolean }) {
  useEffect(followPhotographs, []);
  const isEmpty = photographs.value.length === 0 && arrivals.value.length === 0;
  const photograph = photographInView();
  const held = whatIsHeld();
  if (!entriesAreRead.value) return null;
  return (
    <div class="restore">
      <DropTarget active={active} />
      {isRestorerAway() && (
        <Notice kind="warning" live>
          {t.value.restore.away}
        </Notice>
      )}
      {hasNoJobs.value && (
        <Notice kind="error" live>
          {t.value.restore.noJobs}
        </Notice>
      )}
      {held && (
        <Notice kind="warning" live>
          {t.value.restore.held(describeProblem(held))}
        </Notice>
      )}
      {isEmpty ? (
        <Welcome />
      ) : (
        <>
          <section class="restore-sheet" aria-label={t.value.restore.sheet.label}>
            <ContactSheet chosen={photograph?.id ?? null} />
            <div class="restore-sheet-foot">
              <AddPhotographs compact />
              <Batch />
            </div>
          </section>
          {photograph && <PhotographView key={photograph.id} photograph={photograph} active={active} />}
        </>
      )}
    </div>
  );
}
