import { downloadZip } from "client-zip";
import { useState } from "preact/hooks";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";
import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import { photographs, type Photograph } from "../store/entries";
import { download } from "../store/files";
import { goTo } from "../store/route";
import { describeProblem } from "../text/words";
import { isWorthIt } from "./edits";
import { batchShare } from "./mark";
import { currentMark } from "./marks";
import { restoredName, unique } from "./names";
import { cancelRestorations, removePhotographs, restore } from "./queue";
import "./batch.css";

/** What is done with all photographs together: restore, download, try failed ones again, remove. */
export function Batch() {
  const all = photographs.value.toReversed();
  const marked = all.map((photograph) => ({ photograph, mark: currentMark(photograph) }));
  const texts = t.value.restore;
  const [packed, setPacked] = useState<string | null>(null);
  const [isClearing, setIsClearing] = useState(false);
  const progress = batchShare(marked.map(({ mark }) => mark));
  const of = (kinds: string[]) => marked.filter(({ mark }) => kinds.includes(mark.kind)).map((each) => each.photograph);
  const ready = of(["found", "cancelled"]).filter(isWorthIt);
  const failed = of(["failed"]).filter((each) => each.faces !== null);
  const restored = of(["restored"]);

  async function zip() {
    setPacked(texts.batch.packing("0", formatNumber(restored.length)));
    try {
      const missing = await downloadAll(restored, (count) =>
        setPacked(texts.batch.packing(formatNumber(count), formatNumber(restored.length))),
      );
      if (missing > 0) announce(texts.batch.missing(missing), "error");
    } catch (error) {
      if (error instanceof Problem) announce(describeProblem(error), "error");
      else throw error;
    } finally {
      setPacked(null);
    }
  }

  async function clear() {
    setIsClearing(false);
    if (await removePhotographs(all)) goTo("restore", null, { replace: true });
  }

  if (isClearing) {
    return (
      <div class="batch row">
        <span>{texts.sheet.clearReally}</span>
        <button type="button" class="button small" onClick={() => void clear()}>
          {texts.sheet.clearYes}
        </button>
        <button type="button" class="button quiet small" onClick={() => setIsClearing(false)}>
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
          <button type="button" class="button quiet small" onClick={() => void restore(failed)}>
            {texts.batch.retryFailed}
          </button>
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
          <button type="button" class="button quiet small" onClick={() => setIsClearing(true)}>
            {texts.sheet.clear}
          </button>
        )}
      </div>
    </div>
  );
}

/** Download what was restored as one zip; return how many had expired. */
async function downloadAll(restored: readonly Photograph[], onPacked: (count: number) => void): Promise<number> {
  const files: { photograph: Photograph; blob: Blob }[] = [];
  let missing = 0;
  for (const photograph of restored) {
    try {
      if (photograph.restoration !== null)
        files.push({ photograph, blob: await getOutput(photograph.restoration, "image") });
    } catch (error) {
      if (!(error instanceof Problem && (error.status === 404 || error.status === 410))) throw error;
      missing += 1;
    }
    onPacked(files.length);
  }
  const names = unique(files.map(({ photograph, blob }) => restoredName(photograph.fileName, blob.type)));
  const input = files.map(({ blob }, index) => ({ name: names[index] ?? "", input: blob, lastModified: new Date() }));
  download(await downloadZip(input).blob(), `${t.value.restore.batch.fileName}.zip`);
  return missing;
}
