import { useState } from "preact/hooks";
import { getOutput } from "../api/client";
import { Problem } from "../api/problem";
import type { Job, RestoreReport } from "../api/types";
import { BeforeAfter } from "../parts/before-after";
import { Icon } from "../parts/icon";
import { Notice } from "../parts/notice";
import { PictureProblem } from "../parts/picture-problem";
import { announce } from "../store/announcer";
import { formatNumber, t } from "../store/appearance";
import type { Photograph } from "../store/entries";
import { download } from "../store/files";
import { type Picture, usePicture } from "../store/pictures";
import { describeProblem } from "../text/words";
import { isExact } from "./edits";
import { FacesTable } from "./faces-table";
import { restoredName, safeName } from "./names";
import "./result.css";

interface Props {
  photograph: Photograph;
  /** The restoration, completed. */
  job: Job;
  report: RestoreReport;
  before: Picture;
  /** Null where the original has expired. */
  onChange: (() => void) | null;
}

/** A restored photograph beside the one before, and what became of each of its faces. */
export function Result({ photograph, job, report, before, onChange }: Props) {
  const output = job.outputs.find(({ name }) => name === "image");
  const hasMask = job.outputs.some(({ name }) => name === "mask");
  const after = usePicture(job.id, "image");
  const mask = usePicture(hasMask ? job.id : null, "mask");
  const [isDownloading, setIsDownloading] = useState(false);
  const texts = t.value.restore;
  const width = output?.width ?? photograph.width;
  const height = output?.height ?? photograph.height;
  const missing = after.problem || !onChange ? after : before;
  const exact = isExact(output?.content_type, report.upscale_applied);

  async function save() {
    setIsDownloading(true);
    try {
      const blob = await getOutput(job.id, "image");
      download(blob, safeName(restoredName(photograph.fileName, blob.type)));
    } catch (error) {
      if (error instanceof Problem) announce(describeProblem(error), "error");
      else throw error;
    } finally {
      setIsDownloading(false);
    }
  }

  return (
    <div class="result">
      {after.url && before.url ? (
        <BeforeAfter
          before={before.url}
          after={after.url}
          mask={mask.url}
          width={width}
          height={height}
          {...(exact ? {} : { maskNote: report.upscale_applied > 1 ? texts.result.maskEnlarged : texts.result.maskLossy })}
        />
      ) : (
        <div class="photograph-mat">
          {after.url && <img src={after.url} alt={photograph.fileName} width={width} height={height} />}
        </div>
      )}
      <PictureProblem picture={missing} />
      {!onChange && <Notice>{texts.photograph.onlyAfter}</Notice>}
      <div class="result-actions">
        <button type="button" class="button primary" disabled={isDownloading} onClick={() => void save()}>
          <Icon name="download" />
          {t.value.common.download}
        </button>
        {onChange && (
          <button type="button" class="button" onClick={onChange}>
            {texts.actions.change}
          </button>
        )}
      </div>
      <FacesTable
        photograph={photograph}
        report={report}
        before={before.url}
        after={after.url}
        width={width}
        height={height}
        isExact={exact}
      />
      <Remarks report={report} />
    </div>
  );
}

/** The restorer's warnings in words, and what enlarged the photograph. */
function Remarks({ report }: { report: RestoreReport }) {
  const texts = t.value.restore;
  const codes = report.warning_codes ?? [];
  const remarks = (report.warnings ?? []).map((message, index) => texts.warnings[codes[index] ?? ""] ?? message);
  if (report.upscale_applied > 1 && report.upscaler) {
    remarks.unshift(texts.result.upscaled(report.upscale_applied, report.upscaler));
  }
  if (report.min_similarity != null) {
    remarks.unshift(texts.result.guarded(formatNumber(report.min_similarity, { style: "percent" })));
  }
  if (remarks.length === 0) return null;
  return (
    <section class="remarks">
      <h2>{texts.result.remarks}</h2>
      <ul class="small soft">
        {[...new Set(remarks)].map((remark) => (
          <li key={remark}>{remark}</li>
        ))}
      </ul>
    </section>
  );
}
