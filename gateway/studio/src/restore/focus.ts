/** Where the focus goes when what had it is taken away: never to the beginning of the page. */

/** Focus the first of these elements that is there, once the page shows what has just been changed. */
export function focusOn(...selectors: string[]): void {
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      for (const selector of selectors) {
        const found = document.querySelector<HTMLElement>(`#panel-restore ${selector}`);
        if (!found) continue;
        found.focus();
        return;
      }
    }),
  );
}

/** Whether the focus is nowhere, or where it was when the work was asked for, which goes with its end. */
export function isFocusLost(): boolean {
  const { activeElement } = document;
  if (activeElement === null || activeElement === document.body || activeElement.matches(":disabled")) return true;
  return activeElement.closest(".choices-actions, .job-progress") !== null;
}
