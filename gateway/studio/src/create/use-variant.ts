/** The finished picture at the fidelity that the person has chosen. */
import { useEffect, useMemo, useState } from "preact/hooks";
import { Problem } from "../api/problem";
import type { GenerateInput } from "../api/types";
import { DEFAULTS } from "./form";
import { Fidelities, isSame, neighborsOf, outputOf, restorationOf, restoreAgain } from "./fidelity";

/** While the slider moves, nothing is asked for. */
const REST_MS = 180;

export interface Variant {
  /** The output to show. */
  job: string;
  output: string;
  /** Another fidelity is on its way; what is shown is the last one. */
  isWorking: boolean;
  problem: Problem | null;
}

interface Made {
  of: string;
  job: string | null;
  isWorking: boolean;
  problem: Problem | null;
}

/** `input`: what was asked for; null where its drawing cannot be restored again. */
export function useVariant(id: string, number: number, input: GenerateInput | null, value: number | null): Variant {
  const of = `${id}/${number}`;
  const original = input?.face_restoration_weight ?? DEFAULTS.fidelity;
  const [made, setMade] = useState<Made>({ of, job: null, isWorking: false, problem: null });
  const fidelities = useMemo(
    () =>
      input &&
      new Fidelities<string>((fidelity, ahead, signal) =>
        restoreAgain(restorationOf(id, number, input, fidelity), ahead, signal),
      ),
    [of, input === null],
  );
  useEffect(() => () => fidelities?.stop(), [fidelities]);
  useEffect(() => {
    if (!fidelities || value === null) return undefined;
    const ahead = () => fidelities.ahead(neighborsOf(value).filter((each) => !isSame(each, original)));
    if (isSame(value, original)) {
      fidelities.stop();
      setMade({ of, job: null, isWorking: false, problem: null });
      const timer = setTimeout(ahead, 10 * REST_MS); // once somebody looks at it
      return () => clearTimeout(timer);
    }
    let current = true;
    const show = async () => {
      setMade((last) => ({ of, job: last.of === of ? last.job : null, isWorking: true, problem: null }));
      try {
        const job = await fidelities.want(value);
        if (!current || job === null) return;
        setMade({ of, job, isWorking: false, problem: null });
        ahead();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (current) setMade((last) => ({ ...last, isWorking: false, problem: error }));
      }
    };
    const timer = setTimeout(() => void show(), fidelities.kept(value) === null ? REST_MS : 0);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [fidelities, value, original]);
  const isOwn = made.of === of && fidelities !== null;
  return isOwn && made.job !== null
    ? { job: made.job, output: "image", isWorking: made.isWorking, problem: made.problem }
    : {
        job: id,
        output: outputOf("image", number),
        isWorking: isOwn && made.isWorking,
        problem: isOwn ? made.problem : null,
      };
}
