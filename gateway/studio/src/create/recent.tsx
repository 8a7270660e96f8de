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
          <li key={creation.id}>
            <button
              type="button"
              aria-label={creation.input.prompt}
              aria-current={creation.id === inView ? "true" : undefined}
              title={creation.input.prompt}
              onClick={() => goTo("create", creation.id)}
            >
              <Thumbnail creation={creation} />
            </button>
          </li>
        ))}
      </ul>
    </nav>
  );
}

/** Its small picture; until there is one, how far it is. */
function Thumbnail({ creation }: { creation: Creation }) {
  const { job, previews } = useJob(creation.thumbnail ? null : creation.id);
  const kept = useAddress(creation.thumbnail);
  const isDone = job?.status === "completed";
  const picture = usePicture(!creation.thumbnail && isDone ? creation.id : null, "image");
  const source = kept ?? picture.url ?? previews[0] ?? null;
  const share = job && !isFinal(job) ? job.progress : null;
  return (
    <>
      {source && <img src={source} alt="" />}
      {share !== null && <span class="recent-bar" style={{ transform: `scaleX(${Math.max(0.06, share)})` }} />}
    </>
  );
}
