import type { Job } from "../api/types";
import { formatNumber, t } from "../store/appearance";
import { usePicture } from "../store/pictures";
import { outputOf } from "./fidelity";

interface Props {
  job: Job | null;
  count: number;
  chosen: number;
  previews: readonly string[];
  onChoose: (number: number) => void;
}

/** The pictures of one drawing, to choose from. */
export function Filmstrip({ job, count, chosen, previews, onChoose }: Props) {
  return (
    <div class="filmstrip" role="group" aria-label={t.value.create.of}>
      {Array.from({ length: count }, (_, number) => (
        <button
          key={number}
          type="button"
          aria-label={t.value.create.nth(number + 1)}
          aria-pressed={number === chosen}
          onClick={() => onChoose(number)}
        >
          <Frame job={job} number={number} preview={previews[number] ?? null} />
        </button>
      ))}
    </div>
  );
}

function Frame({ job, number, preview }: { job: Job | null; number: number; preview: string | null }) {
  const names = (job?.outputs ?? []).map(({ name }) => name);
  const name = [outputOf("image", number), outputOf("drawn", number)].find((each) => names.includes(each));
  const picture = usePicture(name && job ? job.id : null, name ?? "");
  const source = picture.url ?? preview;
  return source ? <img src={source} alt="" /> : <span aria-hidden="true">{formatNumber(number + 1)}</span>;
}
