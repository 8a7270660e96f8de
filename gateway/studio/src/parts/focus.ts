/**
 * Keeps the focus where the person was. What has it may go: a button with what it deleted, Cancel with its job, a link
 * with its tab. The browser then gives it to nobody, and whoever uses the keyboard begins at the top of the page.
 */

const FOCUSABLE = "a[href], button, input, select, textarea, [tabindex]";
/** After the page has drawn itself, and a dialog that closes has given the focus back. */
const AFTER_MS = 100;

interface Lost {
  /** What had the focus. */
  element: HTMLElement;
  /** What followed it, came before it and contained it when it went. */
  next: Node | null;
  previous: Node | null;
  parent: Node;
}

function canHaveFocus(element: Element): element is HTMLElement {
  if (!(element instanceof HTMLElement) || !element.isConnected || element.tabIndex < 0) return false;
  return !element.matches(":disabled") && element.getClientRects().length > 0 && !element.closest("[inert]");
}

function firstIn(node: Node | null): HTMLElement | null {
  if (!(node instanceof Element) || !node.isConnected) return null;
  const inside = [node, ...node.querySelectorAll(FOCUSABLE)];
  return (inside.find((each) => each.matches(FOCUSABLE) && canHaveFocus(each)) as HTMLElement | undefined) ?? null;
}

/** The nearest place to where the focus was: beside it, around it, or the tab's panel itself. */
function placeFor({ element, next, previous, parent }: Lost): HTMLElement | null {
  if (canHaveFocus(element)) return element; // it was disabled for a while
  const beside = firstIn(next) ?? firstIn(previous);
  if (beside) return beside;
  for (let around: Node | null = parent; around; around = around.parentNode) {
    if (around instanceof Element && around.matches("[role=tabpanel], main, body")) break;
    const found = firstIn(around);
    if (found) return found;
  }
  const panel = document.querySelector<HTMLElement>("[role=tabpanel]:not([hidden])");
  if (panel) {
    panel.tabIndex = -1;
    panel.addEventListener("blur", () => panel.removeAttribute("tabindex"), { once: true });
  }
  return panel;
}

/** From now on; return what ends it. */
export function keepFocus(): () => void {
  let last: HTMLElement | null = null; // the last that had the focus, unless the person gave it up
  let lost: Lost | null = null;
  let timer = 0;
  const onFocus = (event: FocusEvent) => {
    last = event.target instanceof HTMLElement ? event.target : null;
    lost = null;
  };
  const onPointerDown = (event: PointerEvent) => {
    if (!(event.target instanceof Element && event.target.closest(FOCUSABLE))) last = null;
  };
  const giveBack = () => {
    const has = document.activeElement;
    if (last === null || (has && has !== document.body)) return;
    const around = last.parentNode ?? document.body;
    placeFor(lost ?? { element: last, next: last.nextSibling, previous: last.previousSibling, parent: around })?.focus({
      preventScroll: true,
    });
  };
  const observer = new MutationObserver((changes) => {
    const element = last;
    if (element === null) return;
    for (const { removedNodes, nextSibling, previousSibling, target } of changes) {
      for (const removed of removedNodes) {
        const hadIt = removed.contains(element) || (lost !== null && removed.contains(lost.parent)); // one after another
        if (hadIt) lost = { element, next: nextSibling, previous: previousSibling, parent: target };
      }
    }
    clearTimeout(timer);
    timer = window.setTimeout(giveBack, AFTER_MS);
  });
  observer.observe(document.body, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["disabled", "hidden", "open"],
  });
  document.addEventListener("focusin", onFocus);
  document.addEventListener("pointerdown", onPointerDown);
  return () => {
    observer.disconnect();
    clearTimeout(timer);
    document.removeEventListener("focusin", onFocus);
    document.removeEventListener("pointerdown", onPointerDown);
  };
}
