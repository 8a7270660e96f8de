/** Files that one tab of the page hands to another: a picture that was drawn, to have its faces restored. */
import { signal } from "@preact/signals";

export const handedOver = signal<File[]>([]);
