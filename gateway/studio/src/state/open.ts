/** Whether the dialog of the state is open: the header opens it, and the notice that a key is needed. */
import { signal } from "@preact/signals";

export const stateIsOpen = signal(false);
