import { downloadZip } from "client-zip";
import { useState } from "preact/hooks";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";
import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { photographs, type Photograph } from "../store/entries";
import { download } from "../store/files";
import { goTo } from "../store/route";
import { arrivals, canFindAgain, findAgain, removeArrivals } from "./adding";
import { isWorthIt } from "./edits";
import { batchShare, mayWorkAgain, type Mark } from "./mark";
import { currentMark } from "./marks";
import { focusOn } from "./focus";
import { restoredName, safeName, uniqueNames } from "./names";
import { cancelRestorations, removePhotographs, restore } from "./queue";
import "./batch.css";

/** What is done with all photographs together: restore, download, try failed ones again, remove. */
export function Batch() {
  const all = photographs.value.toReversed();
  const marked = all.map((photograph) => ({ photograph, mark: currentMark(photograph) }));
  const texts = t.value.restore;
  const [packed, setPacked] = useState<string | null>(null);
  const [isClearing, setIsClearing] = useState(false);
  const progress = batchShare(
    marked.map(({ photograph, mark }) => ({ mark, together: photograph.wanted?.together ?? photograph.together ?? null })),
  );
  const of = (kinds: string[]) => marked.filter(({ mark }) => kinds.includes(mark.kind)).map((each) => each.photograph);
  const ready = of(["found", "cancelled", "changed"]).filter(isWorthIt);
  const isAgain = (mark: Mark) => mark.kind === "failed" && mayWorkAgain(mark.code);
  const failed = of(["failed"]);
  const again = marked
    .filter(({ photograph, mark }) => isAgain(mark) && (photograph.faces !== null || canFindAgain(photograph.id)))
    .map(({ photograph }) => photograph);
  const restored = of(["restored", "changed", "unchanged"]);

  async function zip() {
    setPacked(texts.batch.packing("0", formatNumber(restored.length)));
    try {
      const missing = await downloadAll(restored, (count) =>
        setPacked(texts.batch.packing(formatNumber(count), formatNumber(restored.length))),
      );
      if (missing.length > 0) announce(texts.batch.missing(missing.length, named(missing)), "error");
    } finally {
      setPacked(null);
    }
  }

  async function clear() {
    setIsClearing(false);
    removeArrivals(arrivals.value);
    if (!(await removePhotographs(all))) return;
    goTo("restore", null, { replace: true });
    focusOn(".add-photographs input");
  }

  function ask(isAsking: boolean) {
    setIsClearing(isAsking);
    focusOn(isAsking ? ".batch-keep" : ".batch-clear");
  }

  async function tryAgain() {
    await restore(again.filter(({ faces }) => faces !== null));
    for (const photograph of again.filter(({ faces }) => faces === null)) await findAgain(photograph);
  }

  if (isClearing) {
    return (
      <div class="batch row">
        <span>{texts.sheet.clearReally}</span>
        <button type="button" class="button small" onClick={() => void clear()}>
          {texts.sheet.clearYes}
        </button>
        <button type="button" class="button quiet small batch-keep" onClick={() => ask(false)}>
          {texts.sheet.clearNo}
        </button>
      </div>
    );
  }
  return (
    <div class="batch">
      {progress && all.length > 1 && (
        <div class="batch-progress">
          <span class="small tabular">
            {texts.batch.progress(formatNumber(progress.done), formatNumber(progress.of))}
          </span>
          <progress class="batch-bar" value={progress.share} max={1} aria-label={texts.batch.label} />
          <button type="button" class="button quiet small" onClick={() => void cancelRestorations(all)}>
            {texts.batch.cancelAll}
          </button>
        </div>
      )}
      {failed.length > 0 && all.length > 1 && (
        <p class="batch-failed small" role="status">
          {texts.batch.failed(failed.length)}{" "}
          {again.length > 0 && (
            <button type="button" class="button quiet small" onClick={() => void tryAgain()}>
              {texts.batch.retryFailed}
            </button>
          )}
        </p>
      )}
      <div class="row">
        {ready.length > 1 && (
          <button type="button" class="button small" onClick={() => void restore(ready)}>
            {texts.actions.restoreAll(ready.length)}
          </button>
        )}
        {restored.length > 1 && (
          <button type="button" class="button small" disabled={packed !== null} onClick={() => void zip()}>
            <span aria-live="polite">{packed ?? texts.batch.zip(restored.length)}</span>
          </button>
        )}
        {all.length > 1 && (
          <button type="button" class="button quiet small batch-clear" onClick={() => ask(true)}>
            {texts.sheet.clear}
          </button>
        )}
      </div>
    </div>
  );
}

/** The first few names. */
function named(names: readonly string[]): string {
  const MOST = 3;
  const shown = names.slice(0, MOST).join(", ");
  return names.length > MOST ? `${shown}, ...` : shown;
}

/**
 * Download what was restored as one zip; return the names of what is not in it. Each picture is fetched when its turn
 * comes, so that no more than one is held beside the zip.
 */
async function downloadAll(restored: readonly Photograph[], onPacked: (count: number) => void): Promise<string[]> {
  const missing: string[] = [];
  let packed = 0;
  async function* files() {
    const unique = uniqueNames();
    for (const { restoration, fileName } of restored) {
      try {
        const input = await getOutput(restoration ?? "", "image");
        onPacked((packed += 1));
        yield { name: unique(safeName(restoredName(fileName, input.type))), input, lastModified: new Date() };
      } catch (error) {
        if (!(error instanceof Problem)) throw error; // it has expired, or does not come: the others still do
        missing.push(fileName);
      }
    }
  }
  const zip = await downloadZip(files()).blob();
  if (packed > 0) download(zip, `${t.value.restore.batch.fileName}.zip`);
  return missing;
}
