import { useAddress } from "../store/address";
import { t } from "../store/appearance";
import { type Creation, creations } from "../store/entries";
import { isFinal, useJob } from "../store/jobs";
import { usePicture } from "../store/pictures";
import { goTo } from "../store/route";
import "./recent.css";

const MOST = 12;

/** Go to a newer (-1) or older (1) creation. */
export function step(id: string, by: number): void {
  const all = creations.value;
  const next = all[all.findIndex((each) => each.id === id) + by];
  if (next) goTo("create", next.id, { replace: true });
}

/** The last creations, newest first. */
export function Recent({ inView }: { inView: string | null }) {
  const shown = creations.value.slice(0, MOST);
  if (shown.length < 2) return null;
  return (
    <nav class="recent" aria-label={t.value.create.recent}>
      <h2 class="name">{t.value.create.recent}</h2>
      <ul>
        {shown.map((creation) => (
          <Drawing key={creation.id} creation={creation} isInView={creation.id === inView} />
        ))}
      </ul>
    </nav>
  );
}

/** Its small picture; until there is one, how far it is, or that there will be none. */
function Drawing({ creation, isInView }: { creation: Creation; isInView: boolean }) {
  const { job, previews, gone } = useJob(creation.thumbnail ? null : creation.id);
  const kept = useAddress(creation.thumbnail);
  const isDone = job?.status === "completed";
  const picture = usePicture(!creation.thumbnail && isDone ? creation.id : null, "image");
  const source = kept ?? picture.url ?? previews[0] ?? null;
  const share = job && !isFinal(job) ? job.progress : null;
  const word = source ? null : endOf(gone, job?.status);
  const { prompt } = creation.input;
  return (
    <li>
      <button
        type="button"
        aria-label={word ? `${prompt}: ${word}` : prompt}
        aria-current={isInView ? "true" : undefined}
        title={word ? `${prompt}: ${word}` : prompt}
        onClick={() => goTo("create", creation.id)}
      >
        {source && <img src={source} alt="" />}
        {word && (
          <span class="recent-word" aria-hidden="true">
            {word}
          </span>
        )}
        {share !== null && <span class="recent-bar" style={{ transform: `scaleX(${Math.max(0.06, share)})` }} />}
      </button>
    </li>
  );
}

/** In a word, why there is no picture. */
function endOf(gone: boolean, status: string | undefined): string | null {
  const texts = t.value.create;
  if (gone) return texts.ends.expired;
  if (status === "cancelled") return texts.ends.canceled;
  return status === "failed" ? texts.ends.failed : null;
}
