import { useEffect, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import type { RestoreReport } from "../api/types";
import { type Box, FaceBoxes } from "../parts/face-boxes";
import { JobProgress } from "../parts/job-progress";
import { Notice } from "../parts/notice";
import { PictureProblem } from "../parts/picture-problem";
import { announce } from "../store/announcer";
import { useAddress } from "../store/address";
import { formatNumber, t } from "../store/appearance";
import { now } from "../store/clock";
import type { Photograph } from "../store/entries";
import { isFinal, useJob } from "../store/jobs";
import { usePicture } from "../store/pictures";
import { ChoicesPanel } from "./choices-panel";
import { inReadingOrder } from "./edits";
import { isThere, type Mark, mayWorkAgain } from "./mark";
import { currentMark, describeMark } from "./marks";
import { canFindAgain, findAgain } from "./adding";
import { focusOn, isFocusLost } from "./focus";
import { LookAgain } from "./look-again";
import { cancelRestorations } from "./queue";
import { Result } from "./result";
import "./photograph-view.css";

interface Props {
  photograph: Photograph;
  active: boolean;
}

const HEADING = ".photograph-name";

/** The photograph in view: its faces to choose from, or what became of them. */
export function PhotographView({ photograph, active }: Props) {
  const { id, fileName, faces, restoration } = photograph;
  const finding = useJob(id, active && faces === null);
  const restoring = useJob(restoration, active);
  const isKept = finding.job?.status === "completed" && isThere(finding, now.value);
  const before = usePicture(isKept ? id : null, "input_image");
  const isRestored = restoring.job?.status === "completed" && isThere(restoring, now.value);
  const [isChanging, setIsChanging] = useState(!isRestored);
  const [chosen, setChosen] = useState<number | null>(null); // the index of a face
  const mark = currentMark(photograph);
  const expired = !isKept && mark.kind === "expired";

  // The result appears when it is there, and not over what somebody is choosing after that.
  const shownResult = useRef<string | null>(isRestored ? restoration : null);
  const wasBusy = useRef(false);
  if (mark.kind === "waiting" || mark.kind === "restoring") wasBusy.current = restoring.job !== null || wasBusy.current;
  useEffect(() => {
    if (!isRestored || shownResult.current === restoration) return;
    shownResult.current = restoration;
    setIsChanging(false);
    if (wasBusy.current && active && isFocusLost()) focusOn(HEADING);
    if (wasBusy.current) announce(`${fileName}: ${describeMark(mark)}`);
  }, [isRestored, restoration]);

  const texts = t.value.restore;
  const heading = (
    <h1 class="photograph-name" tabIndex={-1}>
      {fileName}
    </h1>
  );
  const show = (changing: boolean) => {
    setIsChanging(changing);
    focusOn(HEADING);
  };
  if (expired) {
    return (
      <section class="photograph">
        {heading}
        <Notice>{texts.photograph.expired}</Notice>
      </section>
    );
  }
  if (isRestored && restoring.job && !isChanging) {
    return (
      <section class="photograph">
        {heading}
        <Result
          photograph={photograph}
          job={restoring.job}
          report={restoring.job.result as unknown as RestoreReport}
          before={before}
          onChange={isKept ? () => show(true) : null}
        />
      </section>
    );
  }
  return (
    <section class="photograph">
      {heading}
      <div class="photograph-columns">
        <div class="photograph-picture">
          <Mat>
            {before.url && faces ? (
              <FaceBoxes
                width={photograph.width}
                height={photograph.height}
                boxes={boxesOf(photograph)}
                chosen={chosen === null ? null : chosen + 1}
                onChoose={(number) => setChosen(number - 1 === chosen ? null : number - 1)}
              >
                <img src={before.url} alt={fileName} width={photograph.width} height={photograph.height} />
              </FaceBoxes>
            ) : (
              <Preview photograph={photograph} />
            )}
          </Mat>
          <PictureProblem picture={before} />
          {faces === null && !isOver(mark) && <JobProgress state={finding} />}
          <Words photograph={photograph} mark={mark} />
        </div>
        <div class="photograph-side">
          {faces !== null && faces.length === 0 && <LookAgain photograph={photograph} />}
          {mark.kind === "waiting" && (
            <div class="photograph-waiting">
              <span class="small">{texts.photograph.waiting}</span>
              <button type="button" class="button small" onClick={() => void cancelRestorations([photograph])}>
                {t.value.common.cancel}
              </button>
            </div>
          )}
          {restoring.job && !isFinal(restoring.job) && <JobProgress state={restoring} />}
          {faces !== null && (
            <ChoicesPanel
              photograph={photograph}
              active={active}
              chosen={faces.find((face) => face.index === chosen) ?? null}
              isBusy={mark.kind === "waiting" || mark.kind === "restoring"}
              onChosen={setChosen}
              onBack={isRestored ? () => show(false) : null}
            />
          )}
        </div>
      </div>
    </section>
  );
}

function isOver(mark: Mark): boolean {
  return mark.kind === "failed" || mark.kind === "cancelled";
}

function Mat({ children }: { children: ComponentChildren }) {
  return <div class="photograph-mat">{children}</div>;
}

/** The thumbnail, as long as the gateway does not hand out the photograph itself. */
function Preview({ photograph: { thumbnail, fileName } }: { photograph: Photograph }) {
  const url = useAddress(thumbnail);
  return url ? <img class="photograph-preview" src={url} alt={fileName} /> : null;
}

/** What there is to say of the photograph, below it. */
function Words({ photograph, mark }: { photograph: Photograph; mark: Mark }) {
  const texts = t.value.restore.photograph;
  const { faces } = photograph;
  if (mark.kind === "failed") {
    return (
      <Notice kind="error" live>
        <p>
          {faces === null ? texts.findingFailed : texts.failed} {mark.message && <span lang="en">{mark.message}</span>}
        </p>
        {faces === null && mayWorkAgain(mark.code) && <FindAgain photograph={photograph} />}
      </Notice>
    );
  }
  if (mark.kind === "cancelled")
    return <Notice live>{faces === null ? texts.findingCancelled : texts.cancelled}</Notice>;
  if (!faces || faces.length === 0) return null;
  return (
    <p class="soft" role="status">
      {texts.faces(faces.length)} {texts.choose}
    </p>
  );
}

/** Where the file is not what was wrong: the same again, or what to do where the page has it no more. */
function FindAgain({ photograph }: { photograph: Photograph }) {
  if (!canFindAgain(photograph.id)) return <p class="small">{t.value.restore.photograph.addAgain}</p>;
  return (
    <button type="button" class="button small" onClick={() => void findAgain(photograph)}>
      {t.value.common.retry}
    </button>
  );
}

function boxesOf({ faces, choices }: Photograph): Box[] {
  const texts = t.value.restore;
  return inReadingOrder(faces ?? []).map(({ index, box, orientation_unclear }) => {
    const { skip, fidelity } = choices[index] ?? {};
    const note = orientation_unclear
      ? texts.photograph.unclear
      : skip
        ? texts.face.willSkip
        : fidelity === undefined
          ? ""
          : texts.face.chosen(formatNumber(fidelity));
    return { number: index + 1, box, note, muted: skip === true || orientation_unclear };
  });
}
