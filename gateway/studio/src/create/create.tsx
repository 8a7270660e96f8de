import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { signal } from "@preact/signals";
import { cancelJob } from "../api/client";
import { Problem } from "../api/problem";
import { announce } from "../store/announcer";
import { t } from "../store/appearance";
import { creations, entriesAreRead, entryOf } from "../store/entries";
import { isFinal, jobState, learn } from "../store/jobs";
import { route } from "../store/route";
import { describeProblem } from "../text/words";
import { draw } from "./asking";
import { CreationForm } from "./creation-form";
import { Empty } from "./empty";
import { goOn } from "./generate";
import { PictureView } from "./picture-view";
import { Recent } from "./recent";
import { RecipeDialog } from "./recipe-dialog";
import "./create.css";

/** Files whose recipe is asked for. */
const dropped = signal<readonly File[]>([]);
const isOver = signal(false);

/** The tab "Create". `active`: it is in view. */
export function Create({ active }: { active: boolean }) {
  const last = useRef<string | null>(null); // what was in view when the tab was left
  if (route.value.tab === "create" && route.value.id) last.current = route.value.id;
  const named = last.current;
  const isKnown = named !== null && (entryOf(named) !== null || route.value.id === named || !entriesAreRead.value);
  const id = isKnown ? named : (creations.value[0]?.id ?? null);
  const entry = id === null ? null : entryOf(id);
  const creation = entry?.kind === "creation" ? entry : null;

  useEffect(() => {
    if (entriesAreRead.value) void goOn();
  }, [entriesAreRead.value]);
  // A layout effect: Escape cancels what is seen, also in the frame in which it appears.
  useLayoutEffect(() => {
    if (!active) return undefined;
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) {
        event.preventDefault();
        void draw();
      } else if (event.key === "Escape" && id !== null && !isText(event.target)) void cancel(id);
    };
    const stops = [
      on("keydown", onKeyDown),
      on("dragover", (event) => {
        if (!takesFiles(event)) return;
        event.preventDefault();
        isOver.value = true;
      }),
      on("dragleave", (event) => {
        if (event.relatedTarget === null) isOver.value = false;
      }),
      on("drop", (event) => {
        isOver.value = false;
        if (!event.dataTransfer || !takesFiles(event)) return;
        event.preventDefault();
        dropped.value = [...event.dataTransfer.files];
      }),
    ];
    return () => {
      isOver.value = false;
      for (const stop of stops) stop();
    };
  }, [active, id]);

  return (
    <div class="create" onKeyDown={askOnce}>
      <h1 class="only-read-aloud">{t.value.tabs.create}</h1>
      <CreationForm onRead={(files) => (dropped.value = files)} />
      <div class={`create-picture ${id === null ? "" : "has-picture"}`}>
        {id === null ? entriesAreRead.value && <Empty /> : <PictureView id={id} creation={creation} active={active} />}
        <Recent inView={id} />
      </div>
      {isOver.value && (
        <div class="create-drop" aria-hidden="true">
          <p>{t.value.create.dropHere}</p>
        </div>
      )}
      <RecipeDialog files={dropped.value} onClose={() => (dropped.value = [])} />
    </div>
  );
}

/** Files are dropped, and no other dialog than that of a recipe is open. */
function takesFiles({ dataTransfer }: DragEvent): boolean {
  const isFree = dropped.value.length > 0 || document.querySelector("dialog[open]") === null;
  return isFree && (dataTransfer?.types.includes("Files") ?? false);
}

/** What is typed into: Escape there ends a composition, or nothing. */
function isText(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) return !["button", "checkbox", "radio", "range", "file"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

/** A key that is held down asks once. */
function askOnce(event: KeyboardEvent): void {
  if (event.key === "Enter" && event.repeat && !(event.target instanceof HTMLTextAreaElement)) event.preventDefault();
}

function on<K extends keyof WindowEventMap>(name: K, listener: (event: WindowEventMap[K]) => void): () => void {
  addEventListener(name, listener);
  return () => removeEventListener(name, listener);
}

async function cancel(id: string): Promise<void> {
  const { job } = jobState(id).peek();
  if (!job || isFinal(job)) return;
  try {
    learn(await cancelJob(id));
    announce(t.value.create.canceled);
  } catch (error) {
    if (error instanceof Problem) announce(describeProblem(error), "error");
    else throw error;
  }
}
