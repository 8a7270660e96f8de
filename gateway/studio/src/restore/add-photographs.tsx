import { useLayoutEffect, useState } from "preact/hooks";
import type { TargetedEvent } from "preact";
import { Icon } from "../parts/icon";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { addPhotographs, hasNoJobs } from "./adding";
import { filesOf, isPicture } from "./gather";
import "./add-photographs.css";

const TYPES = "image/png,image/jpeg,image/webp";

/** Ways to add photographs: files, a folder, the camera of a phone. `compact`: below those that are there. */
export function AddPhotographs({ compact = false }: { compact?: boolean }) {
  const { add } = t.value.restore;

  function onChange(event: TargetedEvent<HTMLInputElement>, { onlyPictures = false } = {}) {
    const files = [...(event.currentTarget.files ?? [])];
    event.currentTarget.value = ""; // so that the same file can be chosen again
    addAll(onlyPictures ? files.filter(isPicture) : files, files.length > 0);
  }

  const kind = compact ? "small" : "";
  if (hasNoJobs.value) return null;
  return (
    <div class={`add-photographs ${compact ? "compact" : ""}`}>
      <div class="row" role="group" aria-label={add.label}>
        <label class={`button ${kind} ${compact ? "" : "primary"}`}>
          <Icon name={compact ? "plus" : "picture"} />
          <span aria-hidden="true">{add.photographs}</span>
          <input type="file" multiple accept={TYPES} aria-label={add.photographs} onChange={(event) => onChange(event)} />
        </label>
        <label class={`button quiet ${kind} add-folder`}>
          <Icon name="folder" />
          <span aria-hidden="true">{add.folder}</span>
          <input
            type="file"
            multiple
            aria-label={add.folder}
            ref={(input) => input?.setAttribute("webkitdirectory", "")}
            onChange={(event) => onChange(event, { onlyPictures: true })}
          />
        </label>
        <label class={`button quiet ${kind} add-camera`}>
          <Icon name="camera" />
          <span aria-hidden="true">{add.camera}</span>
          <input
            type="file"
            accept="image/*"
            capture="environment"
            aria-label={add.camera}
            onChange={(event) => onChange(event)}
          />
        </label>
      </div>
      <p class="small soft">{add.hint}</p>
    </div>
  );
}

function addAll(files: readonly File[], wereAny: boolean): void {
  if (files.length > 0) addPhotographs(files);
  else if (wereAny) announce(t.value.restore.add.none, "error");
}

/** Takes what is dropped or pasted anywhere while the tab is in view, and says so while something is dragged. */
export function DropTarget({ active: isShown }: { active: boolean }) {
  const active = isShown && !hasNoJobs.value;
  const [isOver, setIsOver] = useState(false);
  // A layout effect: a file dropped as soon as the tab is seen is taken.
  useLayoutEffect(() => {
    if (!active) return undefined;
    const stop = new AbortController();
    const options = { signal: stop.signal };
    let leaving = 0;
    const hasFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const onDragOver = (event: DragEvent) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      clearTimeout(leaving);
      setIsOver(true);
      leaving = window.setTimeout(() => setIsOver(false), 400); // it repeats while the pointer is over the page
    };
    const onDrop = (event: DragEvent) => {
      setIsOver(false);
      clearTimeout(leaving);
      if (!event.dataTransfer || !hasFiles(event)) return;
      event.preventDefault();
      void filesOf(event.dataTransfer).then((files) => addAll(files, true));
    };
    const onPaste = (event: ClipboardEvent) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length === 0) return;
      event.preventDefault();
      addAll(files, true);
    };
    document.addEventListener("dragover", onDragOver, options);
    document.addEventListener("drop", onDrop, options);
    document.addEventListener("paste", onPaste, options);
    return () => {
      stop.abort();
      clearTimeout(leaving);
      setIsOver(false);
    };
  }, [active]);
  return isOver ? (
    <div class="drop-target" aria-hidden="true">
      <p>{t.value.restore.add.drop}</p>
    </div>
  ) : null;
}
