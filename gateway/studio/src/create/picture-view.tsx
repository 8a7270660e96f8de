import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { GenerateInput } from "../api/types";
import { BeforeAfter } from "../parts/before-after";
import { JobProgress } from "../parts/job-progress";
import { Notice } from "../parts/notice";
import { PictureProblem } from "../parts/picture-problem";
import { Said } from "../parts/said";
import { announce, say } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { changeEntry, type Creation } from "../store/entries";
import { isFinal, useJob } from "../store/jobs";
import { usePicture } from "../store/pictures";
import { describeReason } from "../text/words";
import { AskedFor } from "./asked-for";
import { attempt } from "./asking";
import { FidelitySlider } from "./fidelity-slider";
import { Filmstrip } from "./filmstrip";
import { outputOf } from "./fidelity";
import { DEFAULTS, sizeOf } from "./form";
import { generate } from "./generate";
import { countOf, effectOf, type Outcome, outcomeOf } from "./outcome";
import { PictureTools } from "./picture-tools";
import { Stage } from "./stage";
import { chosen, type InView, inView, isNarrow, seedInView } from "./state";
import { useVariant } from "./use-variant";
import "./picture-view.css";

interface Props {
  id: string;
  /** What was asked for; null if this browser does not know. */
  creation: Creation | null;
  /** The tab is in view. */
  active: boolean;
}

/** One drawing: being drawn, finished, failed or gone. */
export function PictureView({ id, creation, active }: Props) {
  const texts = t.value.create;
  const input = creation?.input ?? null;
  const seed = creation?.seed ?? null;
  const { job, previews, gone, ...state } = useJob(id, active);
  const [choice, setChoice] = useState({ id, number: 0 });
  const [compares, setCompares] = useState(false);
  const count = countOf(job, input, previews.length);
  const number = choice.id === id ? Math.min(choice.number, count - 1) : 0;

  const outcome = gone ? null : outcomeOf(job, number);
  const hasDrawing = job?.outputs?.some(({ name }) => name === outputOf("drawn", number)) ?? false;
  const effect = effectOf(outcome, input, hasDrawing);
  const value = chosen.value.get(id) ?? creation?.fidelity ?? null;
  const fidelity = value ?? input?.face_restoration_weight ?? DEFAULTS.fidelity;
  const variant = useVariant(id, number, effect === "acts" ? input : null, active ? fidelity : null);
  const reason = outcome?.restorationReason ?? null;
  const { isWorking, problem } = variant;
  const isNone = gone || (job !== null && job.type !== "generate"); // no drawing that is there
  useInView(isNone ? null : { id, effect, reason, fidelity, isWorking, problem }, outcome);

  const drawnWith = outcomeOf(job, 0)?.seed ?? null;
  useEffect(() => {
    if (drawnWith !== null && drawnWith !== seed) void changeEntry<Creation>(id, (entry) => ({ ...entry, seed: drawnWith }));
  }, [id, drawnWith, seed]);
  const drawn = usePicture(hasDrawing && !gone ? id : null, outputOf("drawn", number));
  const finished = usePicture(outcome ? variant.job : null, variant.output);
  const shown = useLast(`${id}/${number}`, finished.url);
  const size = outcome ?? sizeOf(input ?? {});
  const prompt = outcome?.prompt ?? input?.prompt ?? "";
  const asked = input && { ...input, ...(effect === "acts" && value !== null && { face_restoration_weight: value }) };
  const again = input && (
    <>
      <button type="button" class="button small" onClick={() => void attempt(() => generate(seed === null ? input : { ...input, seed }))}>
        {seed === null && input.seed === undefined ? texts.drawAgain : texts.drawAgainSame}
      </button>
      <AskedFor input={input} />
    </>
  );

  if (job && job.type !== "generate") return <Ended text={texts.noDrawing}>{null}</Ended>;
  if (gone) return <Ended text={t.value.problems.gone}>{again}</Ended>;
  if (job?.status === "cancelled") return <Ended text={texts.canceled}>{again}</Ended>;
  if (job?.status === "failed") {
    return (
      <Ended text={texts.failed} kind="error">
        <p>
          <Said>{job.error?.message}</Said>
        </p>
        {again}
      </Ended>
    );
  }
  return (
    <section class="picture-view" aria-label={texts.picture(prompt)}>
      {compares && outcome && shown && drawn.url ? (
        <div class="picture-compared" style={{ "--wide": `${size.width}px`, "--ratio": `${size.width / size.height}` }}>
          <BeforeAfter before={drawn.url} after={shown} width={outcome.width} height={outcome.height} />
        </div>
      ) : (
        <Stage
          id={id}
          width={size.width}
          height={size.height}
          prompt={prompt}
          preview={previews[number] ?? null}
          drawn={drawn.url}
          finished={shown}
          isWorking={variant.isWorking}
          faces={outcome?.faces ?? []}
        />
      )}
      <PictureProblem picture={finished} />
      {!(job && isFinal(job)) && (
        <JobProgress state={{ job, previews, gone, ...state }} onCancel={() => announce(texts.canceled)} />
      )}
      {count > 1 && (
        <Filmstrip
          job={job}
          count={count}
          chosen={number}
          previews={previews}
          onChoose={(chosenNumber) => setChoice({ id, number: chosenNumber })}
        />
      )}
      {isNarrow.value && effect === "acts" && <FidelitySlider />}
      {outcome && (
        <>
          <PictureTools
            key={`${id}/${number}`}
            input={input}
            fidelity={effect === "acts" ? value : null}
            outcome={outcome}
            shown={variant}
            canCompare={drawn.url !== null && outcome.faces.some((face) => face.restored)}
            compares={compares}
            onCompare={setCompares}
          />
          <Remarks outcome={outcome} input={input} />
          {asked && <AskedFor key={id} input={asked} />}
        </>
      )}
    </section>
  );
}

function Ended({ text, kind = "info", children }: { text: string; kind?: "info" | "error"; children: ComponentChildren }) {
  return (
    <div class="picture-ended">
      <Notice kind={kind} live={kind === "error"}>
        <p>{text}</p>
        {children}
      </Notice>
    </div>
  );
}

/** What was not done, and what should be known. */
function Remarks({ outcome, input }: { outcome: Outcome; input: GenerateInput | null }) {
  const texts = t.value.create;
  const own = [
    outcome.restorationReason && texts.notRestored(describeReason(outcome.restorationReason)),
    outcome.refinerReason && input?.use_refiner !== false && texts.noRefiner(describeReason(outcome.refinerReason)),
    outcome.hiresReason && texts.noHires(describeReason(outcome.hiresReason)),
  ].filter((each): each is string => typeof each === "string");
  const warnings = outcome.warnings.map((warning) => `${warning.charAt(0).toUpperCase()}${warning.slice(1)}.`.replace(/\.\.$/, "."));
  const size = `${formatNumber(outcome.width, { useGrouping: false })} × ${formatNumber(outcome.height, { useGrouping: false })}`;
  return (
    <div class="picture-remarks small soft">
      <p class="tabular">{texts.facts(size, String(outcome.seed))}</p>
      {own.length + warnings.length > 0 && (
        <ul>
          {own.map((each) => (
            <li key={each}>{each}</li>
          ))}
          {warnings.map((each) => (
            <li key={each}>
              <Said>{each}</Said>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

/** Tell the form which picture is in view, and the person when it is finished. */
function useInView(now: InView | null, outcome: Outcome | null): void {
  const seed = outcome?.seed ?? null;
  useEffect(() => {
    inView.value = now;
  }, [now?.id, now?.effect, now?.reason, now?.fidelity, now?.isWorking, now?.problem]);
  useEffect(() => {
    seedInView.value = seed;
  }, [seed]);
  useEffect(
    () => () => {
      inView.value = null;
      seedInView.value = null;
    },
    [],
  );
  const wasRunning = useRef<string | null>(null);
  useEffect(() => {
    if (now?.effect === "later") wasRunning.current = now.id;
    else if (outcome && wasRunning.current === now?.id) say(t.value.create.picture(outcome.prompt));
  }, [now?.id, now?.effect]);
}

/** The last address that there was, until the next has come. */
function useLast(of: string, url: string | null): string | null {
  const last = useRef<{ of: string; url: string | null }>({ of, url: null });
  if (last.current.of !== of) last.current = { of, url: null };
  if (url !== null) last.current.url = url;
  return last.current.url;
}
