import type { RestoreReport } from "../api/types";
import { Icon } from "../parts/icon";
import { formatNumber, t } from "../store/appearance";
import type { Photograph } from "../store/entries";
import { describeReason } from "../text/words";
import { FaceCrop } from "./face-crop";

interface Props {
  photograph: Photograph;
  report: RestoreReport;
  before: string | null;
  after: string | null;
  /** Of the picture after, in px. */
  width: number;
  height: number;
  /** What was not restored is the photograph's own, to the pixel. */
  isExact: boolean;
}

/** What became of each face, with the reason where it was left alone. */
export function FacesTable({ photograph, report, before, after, width, height, isExact }: Props) {
  const texts = t.value.restore.result;
  const faces = [...(report.faces ?? [])].sort((a, b) => a.index - b.index);
  if (faces.length === 0) return <p class="soft">{texts.noFaces}</p>;
  return (
    <section class="faces-table">
      <h2 id={`faces-of-${photograph.id}`}>{texts.title}</h2>
      <div class="faces-table-head small soft" aria-hidden="true">
        {[texts.face, texts.outcome, texts.fidelity, texts.visibility, texts.likeness].map((name) => (
          <span key={name}>{name}</span>
        ))}
      </div>
      <ul aria-labelledby={`faces-of-${photograph.id}`}>
        {faces.map((face) => {
          const found = photograph.faces?.find(({ index }) => index === face.index);
          return (
            <li key={face.index} class={face.restored ? "restored" : "kept"}>
              <div class="faces-table-face">
                <strong>{t.value.faces.face(face.index + 1)}</strong>
                <span class="faces-table-crops">
                  {before && found && (
                    <FaceCrop
                      url={before}
                      width={photograph.width}
                      height={photograph.height}
                      box={found.box}
                      alt={texts.before}
                    />
                  )}
                  {after && <FaceCrop url={after} width={width} height={height} box={face.box} alt={texts.after} />}
                </span>
              </div>
              <p class="faces-table-outcome">
                {face.restored && <Icon name="check" />}
                <span>
                  {face.restored ? t.value.faces.restored : t.value.faces.kept}
                  {face.reason && face.reason !== "skipped" && (
                    <span class="soft">. {describeReason(face.reason)}</span>
                  )}
                  {face.reason === "skipped" && <span class="soft">, {texts.asAsked}</span>}
                  {!face.restored && !isExact && (
                    <span class="soft">. {report.upscale_applied > 1 ? texts.onlyEnlarged : texts.butForCompression}</span>
                  )}
                </span>
              </p>
              <Value name={texts.fidelity} text={usedOf(face.fidelity, face.fidelity_requested, twoDigits)} />
              <Value name={texts.visibility} text={usedOf(face.visibility, face.visibility_requested, percent)} />
              <Value
                name={texts.likeness}
                text={
                  face.identity_unknown
                    ? texts.ruined
                    : face.identity_similarity == null
                      ? ""
                      : percent(Math.max(0, face.identity_similarity))
                }
              />
            </li>
          );
        })}
      </ul>
    </section>
  );
}

function Value({ name, text }: { name: string; text: string }) {
  return (
    <p class={`faces-table-value tabular ${text ? "" : "none"}`}>
      <span class="faces-table-name small soft">{name}</span>
      <span>{text || <span aria-hidden="true">-</span>}</span>
    </p>
  );
}

const percent = (value: number) => formatNumber(value, { style: "percent" });
const twoDigits = (value: number) => formatNumber(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

function usedOf(used: number | null | undefined, asked: number | null | undefined, format: (value: number) => string): string {
  if (used == null) return "";
  return asked == null || asked === used ? format(used) : t.value.restore.result.askedFor(format(used), format(asked));
}
