import type { CSSProperties, TargetedKeyboardEvent, TargetedPointerEvent } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { formatNumber, t } from "../store/appearance";
import { Icon } from "./icon";
import { clamp, fit, pan, type Size, type Zoom, zoomBy } from "./zoom";
import "./before-after.css";

type View = "slider" | "side" | "mask" | "difference";

interface Props {
  before: string;
  after: string;
  /** Of the picture after, in px; the one before is shown at the same size. */
  width: number;
  height: number;
  /** Gray: white where something was changed. */
  mask?: string | null;
  /** What the mask means. Default: that everything else has stayed as it was. */
  maskNote?: string;
}

/**
 * Two versions of a picture: behind one another with a line to move, side by side, or what differs. Zooms to pixels.
 *
 * Keys, with the focus anywhere in it: arrows move the line; + and - zoom, 0 fits, 1 shows actual pixels.
 */
export function BeforeAfter({ before, after, width, height, mask, maskNote }: Props) {
  const [view, setView] = useState<View>("slider");
  const [split, setSplit] = useState(0.5);
  const frame = useRef<HTMLDivElement>(null);
  const [box, setBox] = useState<Size>({ width: 0, height: 0 });
  const [chosen, setChosen] = useState<Zoom | null>(null); // null: fitted, whatever the window's size becomes
  const picture = { width, height };
  const isSide = view === "side";
  const pane: Size = isSide ? { width: box.width / 2, height: box.height } : box;
  const zoom = chosen ? clamp(chosen, picture, pane) : fit(picture, pane);
  const isFitted = chosen === null || zoom.scale <= fit(picture, pane).scale * 1.001;

  useLayoutEffect(() => {
    const element = frame.current;
    if (!element) return undefined;
    const measure = () => setBox({ width: element.clientWidth, height: element.clientHeight });
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useEffect(() => setChosen(null), [width, height]);
  useEffect(() => {
    if (view === "mask" && !mask) setView("slider");
  }, [mask]);

  const scaleBy = (factor: number, at = { x: 0, y: 0 }) => setChosen(zoomBy(zoom, factor, at, picture, pane));
  const actualPixels = (at = { x: 0, y: 0 }) => scaleBy(1 / devicePixelRatio / zoom.scale, at);
  const pointers = usePointers({
    frame,
    paneWidth: pane.width,
    onSplit: view === "slider" ? setSplit : null,
    canPan: !isFitted,
    onPan: (dx, dy) => setChosen(pan(zoom, dx, dy, picture, pane)),
    onPinch: scaleBy,
  });

  function onKeyDown(event: TargetedKeyboardEvent<HTMLElement>) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60;
    const moves: Record<string, () => void> = {
      "+": () => scaleBy(1.5),
      "=": () => scaleBy(1.5),
      "-": () => scaleBy(1 / 1.5),
      "0": () => setChosen(null),
      "1": () => actualPixels(),
    };
    if (!isFitted && event.shiftKey) {
      moves["ArrowLeft"] = () => setChosen(pan(zoom, step, 0, picture, pane));
      moves["ArrowRight"] = () => setChosen(pan(zoom, -step, 0, picture, pane));
      moves["ArrowUp"] = () => setChosen(pan(zoom, 0, step, picture, pane));
      moves["ArrowDown"] = () => setChosen(pan(zoom, 0, -step, picture, pane));
    }
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    move();
  }

  const placed: CSSProperties = {
    width: `${width * zoom.scale}px`,
    height: `${height * zoom.scale}px`,
    left: `${pane.width / 2 - zoom.x * zoom.scale}px`,
    top: `${pane.height / 2 - zoom.y * zoom.scale}px`,
    imageRendering: zoom.scale * devicePixelRatio >= 3 ? "pixelated" : "auto",
  };
  const show = (source: string, label: string, style: CSSProperties = {}) => (
    <img src={source} alt={label} draggable={false} style={{ ...placed, ...style }} />
  );
  const texts = t.value.comparison;
  const views: View[] = mask ? ["slider", "side", "mask", "difference"] : ["slider", "side", "difference"];

  return (
    <div class="before-after" onKeyDown={onKeyDown}>
      <div
        ref={frame}
        class={`before-after-frame ${view} ${isFitted ? "" : "can-pan"}`}
        style={{
          aspectRatio: isSide ? `${2 * width} / ${height}` : `${width} / ${height}`,
          maxInlineSize: `max(36rem, ${isSide ? 2 * width : width}px)`, // no wide mat around a small picture
        }}
        onDblClick={(event) => (isFitted ? actualPixels(pointers.position(event)) : setChosen(null))}
        onWheel={(event) => {
          if (!event.ctrlKey && !event.metaKey) return; // a pinch on a touchpad comes as one with Ctrl
          event.preventDefault();
          scaleBy(Math.exp(-event.deltaY / 200), pointers.position(event));
        }}
        {...pointers.handlers}
      >
        {view === "difference" ? (
          <div class="layer difference-of">
            {show(before, texts.before)}
            {show(after, texts.difference, { mixBlendMode: "difference" })}
          </div>
        ) : view === "mask" && mask ? (
          <>
            <div class="layer dimmed">{show(before, texts.before)}</div>
            <div class="layer">
              {show(after, texts.mask, { maskImage: `url("${mask}")`, maskSize: "100% 100%", maskMode: "luminance" })}
            </div>
          </>
        ) : (
          <>
            <div class="layer first">{show(before, texts.before)}</div>
            <div
              class="layer second"
              style={isSide ? {} : { clipPath: `inset(0 0 0 ${Math.round(split * 10_000) / 100}%)` }}
            >
              {show(after, texts.after)}
            </div>
            <span class="tag start">{texts.before}</span>
            <span class="tag end">{texts.after}</span>
          </>
        )}
        {view === "slider" && (
          <>
            <div class="split" style={{ left: `${split * 100}%` }} aria-hidden="true">
              <span class="grip" />
            </div>
            <input
              class="split-input"
              type="range"
              min={0}
              max={100}
              step={1}
              value={Math.round(split * 100)}
              aria-label={texts.name}
              aria-valuetext={texts.percent(formatNumber(1 - split, { style: "percent" }))}
              onInput={(event) => setSplit(event.currentTarget.valueAsNumber / 100)}
            />
          </>
        )}
      </div>
      <div class="before-after-tools">
        <fieldset class="segments">
          <legend class="only-read-aloud">{texts.view}</legend>
          {views.map((each) => (
            <label key={each}>
              <input type="radio" name={`view-of-${before}`} checked={view === each} onChange={() => setView(each)} />
              <span>{texts[each]}</span>
            </label>
          ))}
        </fieldset>
        <div class="row">
          <button type="button" class="button quiet square small" aria-label={texts.zoomOut} onClick={() => scaleBy(1 / 1.5)}>
            <Icon name="minus" />
          </button>
          <output class="tabular small soft zoom-share">
            {formatNumber(zoom.scale * devicePixelRatio, { style: "percent" })}
          </output>
          <button type="button" class="button quiet square small" aria-label={texts.zoomIn} onClick={() => scaleBy(1.5)}>
            <Icon name="plus" />
          </button>
          <button type="button" class="button quiet small" onClick={() => setChosen(null)}>
            {texts.fit}
          </button>
          <button type="button" class="button quiet small" onClick={() => actualPixels()}>
            {texts.pixels}
          </button>
        </div>
      </div>
      {view === "difference" && <p class="small soft">{texts.differenceNote}</p>}
      {view === "mask" && <p class="small soft">{maskNote ?? texts.maskNote}</p>}
    </div>
  );
}

interface PointerOptions {
  frame: { current: HTMLDivElement | null };
  paneWidth: number;
  onSplit: ((split: number) => void) | null;
  canPan: boolean;
  onPan: (dx: number, dy: number) => void;
  onPinch: (factor: number, at: { x: number; y: number }) => void;
}

/** One pointer moves the line, or the picture where it is zoomed; two zoom. */
function usePointers({ frame, paneWidth, onSplit, canPan, onPan, onPinch }: PointerOptions) {
  const down = useRef(new Map<number, { x: number; y: number }>());
  const moves = useRef<"split" | "pan" | null>(null);

  /** Px from the middle of the pane that the event is in. */
  function position(event: { clientX: number; clientY: number }): { x: number; y: number } {
    const rect = frame.current?.getBoundingClientRect();
    if (!rect) return { x: 0, y: 0 };
    const x = (event.clientX - rect.left) % Math.max(1, paneWidth);
    return { x: x - paneWidth / 2, y: event.clientY - rect.top - rect.height / 2 };
  }
  function splitAt(event: PointerEvent): void {
    const rect = frame.current?.getBoundingClientRect();
    if (rect && onSplit) onSplit(Math.min(1, Math.max(0, (event.clientX - rect.left) / rect.width)));
  }
  const handlers = {
    onPointerDown(event: TargetedPointerEvent<HTMLDivElement>) {
      if (event.button !== 0) return;
      event.currentTarget.setPointerCapture(event.pointerId);
      down.current.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const onGrip = event.target instanceof Element && event.target.closest(".split") !== null;
      moves.current = onSplit && (onGrip || !canPan) ? "split" : "pan";
      if (moves.current === "split") splitAt(event);
    },
    onPointerMove(event: TargetedPointerEvent<HTMLDivElement>) {
      const last = down.current.get(event.pointerId);
      if (!last) return;
      const others = [...down.current].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      const other = others[0];
      if (other) {
        const distance = (point: { x: number; y: number }) => Math.hypot(point.x - other.x, point.y - other.y);
        const now = { x: event.clientX, y: event.clientY };
        const middle = position({ clientX: (now.x + other.x) / 2, clientY: (now.y + other.y) / 2 });
        onPinch(distance(now) / Math.max(1, distance(last)), middle);
        moves.current = null;
      } else if (moves.current === "split") splitAt(event);
      else if (moves.current === "pan") onPan(event.clientX - last.x, event.clientY - last.y);
      down.current.set(event.pointerId, { x: event.clientX, y: event.clientY });
    },
    onPointerUp(event: TargetedPointerEvent<HTMLDivElement>) {
      down.current.delete(event.pointerId);
    },
    onPointerCancel(event: TargetedPointerEvent<HTMLDivElement>) {
      down.current.delete(event.pointerId);
    },
  };
  return { handlers, position };
}
