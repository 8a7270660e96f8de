import { useId } from "preact/hooks";
import "./slider.css";

interface Props {
  name: string;
  value: number;
  min?: number;
  max?: number;
  step?: number;
  /** What the ends mean. */
  low?: string;
  high?: string;
  /** The value in words, on the screen and read aloud. */
  format?: (value: number) => string;
  disabled?: boolean;
  /** While the thumb moves. */
  onInput: (value: number) => void;
  /** Once it rests. */
  onChange?: (value: number) => void;
}

/** A slider whose ends say what they mean. */
export function Slider({ name, value, min = 0, max = 1, step = 0.05, low, high, format, disabled, ...on }: Props) {
  const id = useId();
  const text = format ? format(value) : String(value);
  return (
    <div class="slider">
      <div class="slider-head">
        <label class="name" for={id}>
          {name}
        </label>
        <span class="slider-value tabular" aria-hidden="true">
          {text}
        </span>
      </div>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        disabled={disabled}
        aria-valuetext={[text, value <= min ? low : value >= max ? high : ""].filter(Boolean).join(", ")}
        style={{ "--filled": `${((value - min) / (max - min)) * 100}%` }}
        onInput={(event) => on.onInput(event.currentTarget.valueAsNumber)}
        onChange={(event) => on.onChange?.(event.currentTarget.valueAsNumber)}
      />
      {(low || high) && (
        <div class="slider-ends small soft" aria-hidden="true">
          <span>{low}</span>
          <span>{high}</span>
        </div>
      )}
    </div>
  );
}
