import type { DrawnFace } from "../api/types";
import { FaceBoxes } from "../parts/face-boxes";
import { t } from "../store/appearance";
import { describeReason } from "../text/words";
import { step } from "./recent";

const MANY = 8;

interface Props {
  id: string;
  /** Of the finished picture, in px: known from the start, so that nothing jumps. */
  width: number;
  height: number;
  prompt: string;
  preview: string | null;
  drawn: string | null;
  finished: string | null;
  isWorking: boolean;
  faces: readonly DrawnFace[];
}

/** The place of a picture: previews become clearer in it until the finished picture covers them. */
export function Stage({ id, width, height, prompt, preview, drawn, finished, isWorking, faces }: Props) {
  const texts = t.value;
  const boxes = faces.map(({ box, restored, reason }, index) => ({
    number: index + 1,
    box,
    // Of many faces only what is unusual is said: there would be no room.
    note: restored ? (faces.length > MANY ? undefined : texts.faces.restored) : reason ? describeReason(reason) : texts.faces.kept,
    muted: !restored,
  }));
  return (
    <div
      class={`stage ${isWorking ? "is-working" : ""}`}
      style={{ "--wide": `${width}px`, "--ratio": `${width / height}`, aspectRatio: `${width} / ${height}` }}
    >
      <FaceBoxes width={width} height={height} boxes={boxes}>
        <div
          class="stage-picture"
          role="group"
          tabIndex={0}
          aria-label={texts.create.picture(prompt)}
          aria-description={texts.create.keys}
          onKeyDown={(event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
            event.preventDefault();
            step(id, by);
          }}
        >
          {preview && !finished && <img class="preview" src={preview} alt={texts.create.preview} draggable={false} />}
          {drawn && !finished && <img class="early" src={drawn} alt={texts.create.preview} draggable={false} />}
          {finished && <img class="finished" src={finished} alt={prompt} />}
        </div>
      </FaceBoxes>
    </div>
  );
}
