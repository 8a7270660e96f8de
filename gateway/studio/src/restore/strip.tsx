import { useEffect, useState } from "preact/hooks";
import { submit } from "../api/client";
import { Problem } from "../api/problem";
import type { ComparisonResult, FoundFace, RestoreReport } from "../api/types";
import { stageOf } from "../parts/job-progress";
import { Notice } from "../parts/notice";
import { formatNumber, t } from "../store/appearance";
import { recordJob } from "../store/deleting";
import { entryOf, type FaceChoice, type Photograph } from "../store/entries";
import { isFinal, type JobState, useJob } from "../store/jobs";
import { usePicture } from "../store/pictures";
import { describeProblem, describeReason } from "../text/words";
import { FIDELITIES, stripInput } from "./edits";
import "./strip.css";

/** Strips of other faces are made ahead where there are few. */
const FEW_FACES = 6;
/** Somebody waits for the strip of the chosen face; nobody for those made ahead. */
const PRIORITY = { chosen: 20, ahead: -20 };

interface Props {
  photograph: Photograph;
  face: FoundFace;
  choice: FaceChoice;
  fidelity: number;
  active: boolean;
  onChoose: (choice: FaceChoice) => void;
}

/** One face as it was, and at five fidelities: radio buttons with pictures. */
export function Strip({ photograph, face, choice, fidelity, active, onChoose }: Props) {
  const { id } = photograph;
  const jobId = photograph.strips?.[face.index] ?? null;
  const state = useJob(jobId);
  const [problem, setProblem] = useState<Problem | null>(null);
  const ended = state.job !== null && isFinal(state.job);
  const done = state.job?.status === "completed";
  const texts = t.value.restore.face;

  const ask = () => {
    setProblem(null);
    void askForStrip(id, face, PRIORITY.chosen).then(setProblem);
  };
  useEffect(() => {
    if (active && (jobId === null || state.gone)) ask();
  }, [id, face.index, active, state.gone]);
  useEffect(() => {
    if (active && done) void makeAhead(id);
  }, [active, done, id, face.index]);

  const failure = problem ? describeProblem(problem) : ended && !done ? (state.job?.error?.message ?? "") : null;
  if (failure !== null) {
    return (
      <Notice kind="error" live>
        <p class="small">{texts.stripFailed(failure)}</p>
        <button type="button" class="button small" onClick={ask}>
          {t.value.common.retry}
        </button>
      </Notice>
    );
  }
  const results = done ? (state.job?.result as unknown as ComparisonResult | null)?.results : undefined;
  const reason = faceOf(results?.[0])?.reason;
  const isOriginal = choice.skip ?? false;
  const measured = results?.some((each) => faceOf(each)?.identity_similarity != null) ?? false;
  return (
    <div class="strip-block">
      <fieldset class="strip" aria-busy={!done}>
        <legend class="only-read-aloud">{texts.strip}</legend>
        <Crop
          group={`strip-${id}`}
          jobId={done ? jobId : null}
          output="face_0_before_1"
          name={texts.original}
          note=""
          checked={isOriginal}
          onChoose={() => onChoose({ skip: true })}
        />
        {FIDELITIES.map((value, position) => (
          <Crop
            key={value}
            group={`strip-${id}`}
            jobId={done && !reason ? jobId : null}
            output={`face_0_after_${position + 1}`}
            name={formatNumber(value, { minimumFractionDigits: 2 })}
            label={`${texts.fidelity} ${formatNumber(value)}`}
            note={likenessOf(results?.[position])}
            checked={!isOriginal && fidelity === value}
            onChoose={() => onChoose({ fidelity: value, skip: false })}
          />
        ))}
      </fieldset>
      <StripWords state={state} reason={reason ? describeReason(reason) : ""} />
      {measured && <p class="small soft">{texts.likeness}</p>}
    </div>
  );
}

function StripWords({ state, reason }: { state: JobState; reason: string }) {
  const texts = t.value.restore.face;
  if (reason) return <Notice kind="warning">{texts.notRestored(reason)}</Notice>;
  if (state.job?.status === "completed") return null;
  const words = state.offline
    ? t.value.progress.offline
    : state.problem
      ? describeProblem(state.problem)
      : state.job?.status === "queued"
      ? stageOf(state)
      : texts.stripWaiting;
  return (
    <p class="small soft" role="status">
      {words}
    </p>
  );
}

interface CropProps {
  group: string;
  jobId: string | null;
  output: string;
  name: string;
  /** Read aloud in place of the name. */
  label?: string;
  note: string;
  checked: boolean;
  onChoose: () => void;
}

function Crop({ group, jobId, output, name, label = name, note, checked, onChoose }: CropProps) {
  const { url, problem } = usePicture(jobId, output);
  return (
    <label class={`crop ${checked ? "checked" : ""}`}>
      <input
        type="radio"
        name={group}
        checked={checked}
        aria-label={[label, note].filter(Boolean).join(", ")}
        onChange={onChoose}
      />
      <span class="crop-picture">{url ? <img src={url} alt="" width={512} height={512} /> : null}</span>
      <span class="crop-words small tabular" aria-hidden="true">
        <span>{name}</span>
        <span class="soft">{problem ? "-" : note}</span>
      </span>
    </label>
  );
}

/** The comparison was asked for one face, which is its face 0. */
function faceOf(report: RestoreReport | undefined) {
  return report?.faces?.[0];
}

function likenessOf(report: RestoreReport | undefined): string {
  const { alike, unknown } = t.value.restore.face;
  const found = faceOf(report);
  if (found?.identity_unknown) return unknown;
  const similarity = found?.identity_similarity;
  return similarity == null ? "" : alike(formatNumber(Math.max(0, similarity), { style: "percent" }));
}

const asked = new Set<string>();

/** Submit the comparison of a face, unless this page is doing it already; return what went wrong. */
async function askForStrip(id: string, face: FoundFace, priority: number): Promise<Problem | null> {
  const name = `${id}/${face.index}`;
  if (asked.has(name)) return null;
  asked.add(name);
  try {
    const job = await submit({ type: "compare", input: stripInput(id, face), priority });
    await recordJob<Photograph>(id, job, (entry) => ({ ...entry, strips: { ...entry.strips, [face.index]: job.id } }));
    return null;
  } catch (error) {
    return error instanceof Problem ? error : new Problem(0, "offline", String(error));
  } finally {
    asked.delete(name);
  }
}

/** Once nobody waits: the strips that are missing, where the faces are few. All other jobs come before them. */
async function makeAhead(id: string): Promise<void> {
  for (;;) {
    const entry = entryOf(id);
    if (entry?.kind !== "photograph" || (entry.faces?.length ?? 0) > FEW_FACES) return;
    const next = entry.faces?.find(({ index }) => entry.strips?.[index] === undefined);
    if (!next || (await askForStrip(id, next, PRIORITY.ahead)) !== null) return;
    if ((entryOf(id) as Photograph | null)?.strips?.[next.index] === undefined) return; // asked for elsewhere, or removed
  }
}
