import type { ComponentChildren } from "preact";
import { t } from "../store/appearance";
import "./face-boxes.css";

export interface Box {
  /** The number that the person sees, from 1. */
  number: number;
  /** x1, y1, x2, y2 in px of the picture. */
  box: readonly number[];
  /** What is said of the face besides its number. */
  note?: string;
  muted?: boolean;
}

interface Props {
  width: number;
  height: number;
  boxes: readonly Box[];
  /** Makes each face a button. */
  onChoose?: (number: number) => void;
  chosen?: number | null;
  /** The picture, which fills the element. */
  children: ComponentChildren;
}

/** A picture with a frame around each face: shown on hover and focus, or always where faces can be chosen. */
export function FaceBoxes({ width, height, boxes, onChoose, chosen, children }: Props) {
  return (
    <div class={`face-boxes ${onChoose ? "choose" : ""}`}>
      {children}
      {boxes.map(({ number, box, note, muted }) => {
        const [x1 = 0, y1 = 0, x2 = 0, y2 = 0] = box;
        const isRight = x1 + x2 > width; // its label goes to the side with more room, and no further than the picture
        const room = (isRight ? x2 : width - x1) / Math.max(1, x2 - x1);
        const style = {
          left: `${(100 * x1) / width}%`,
          top: `${(100 * y1) / height}%`,
          width: `${(100 * (x2 - x1)) / width}%`,
          height: `${(100 * (y2 - y1)) / height}%`,
          "--room": `${100 * room}%`,
        };
        const name = t.value.faces.face(number);
        const kind = `face-box ${muted ? "muted" : ""} ${y1 < 0.08 * height ? "label-below" : ""} ${isRight ? "label-left" : ""}`;
        return onChoose ? (
          <button
            key={number}
            type="button"
            class={kind}
            style={style}
            aria-label={name}
            aria-description={note}
            aria-pressed={chosen === number}
            onClick={() => onChoose(number)}
          >
            <span aria-hidden="true">{number}</span>
          </button>
        ) : (
          <div key={number} class={kind} style={style} role="img" aria-label={note ? `${name}: ${note}` : name}>
            <span aria-hidden="true">{note ? `${number} · ${note}` : number}</span>
          </div>
        );
      })}
    </div>
  );
}
