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
  /** Its fidelity, if it is not the one that was asked for at first. */
  fidelity: number | null;
  /** Another fidelity is wanted; what is shown is the last one. */
  isWorking: boolean;
  problem: Problem | null;
}

/** What is there, and what went wrong with what was wanted last. */
interface Made {
  of: string;
  job: string | null;
  at: number;
  failed: { at: number; problem: Problem } | null;
}

/** `input`: what was asked for; null where its drawing cannot be restored again. */
export function useVariant(id: string, number: number, input: GenerateInput | null, value: number | null): Variant {
  const of = `${id}/${number}`;
  const original = input?.face_restoration_weight ?? DEFAULTS.fidelity;
  const [made, setMade] = useState<Made>({ of, job: null, at: original, failed: null });
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
      setMade({ of, job: null, at: original, failed: null });
      const timer = setTimeout(ahead, 10 * REST_MS); // once somebody looks at it
      return () => clearTimeout(timer);
    }
    let current = true;
    const show = async () => {
      setMade((last) => (last.of === of ? { ...last, failed: null } : { of, job: null, at: original, failed: null }));
      try {
        const job = await fidelities.want(value);
        if (!current || job === null) return;
        setMade({ of, job, at: value, failed: null });
        ahead();
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (current) setMade((last) => ({ ...last, failed: { at: value, problem: error } }));
      }
    };
    const timer = setTimeout(() => void show(), fidelities.kept(value) === null ? REST_MS : 0);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [fidelities, value, original]);
  const isOwn = made.of === of && fidelities !== null;
  const isOther = isOwn && made.job !== null;
  const problem = isOwn && made.failed && value !== null && isSame(made.failed.at, value) ? made.failed.problem : null;
  const isWanted = fidelities !== null && value !== null && !isSame(value, isOther ? made.at : original);
  return {
    ...(isOther && made.job !== null
      ? { job: made.job, output: "image", fidelity: made.at }
      : { job: id, output: outputOf("image", number), fidelity: null }),
    isWorking: isWanted && problem === null,
    problem,
  };
}
