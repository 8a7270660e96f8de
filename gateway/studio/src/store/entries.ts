/**
 * What this browser has asked for: the IDs of jobs, with what the page needs to show them again. Kept in IndexedDB,
 * so that a reload or another tab finds it; what became of the jobs, the gateway knows.
 *
 * `entries` is the tabs' common list. Whoever changes it writes to the database first; the other tabs are told, and
 * read it again.
 */
import { computed, signal } from "@preact/signals";
import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { FoundFace, GenerateInput, RestoreInput } from "../api/types";
import { nothingIsKept } from "./storage";

interface EntryBase {
  /** The ID of the job that began it. */
  id: string;
  createdAt: number;
  /** When the gateway deletes what it made, once that is known; milliseconds since 1970. */
  expiresAt: number | null;
  /** A small picture of it, JPEG. */
  thumbnail: Blob | null;
  /** All other jobs that were ever made for it, so that they can be deleted with it: see `recordJob` in deleting.ts. */
  made?: readonly string[];
}

/** A picture, or several, that were drawn. `id`: the drawing's job. */
export interface Creation extends EntryBase {
  kind: "creation";
  input: GenerateInput;
  /** The one that was drawn with, once that is known: of several pictures the first one's. */
  seed?: number;
  /** That the person has chosen for the finished picture; absent: as it was asked for. */
  fidelity?: number;
}

/** What is to be done to one face. Absent: as for the whole photograph. */
export interface FaceChoice {
  fidelity?: number;
  visibility?: number;
  skip?: boolean;
}

export type Preset = "gentle" | "balanced" | "strong";

export interface PhotographSettings {
  fidelity: number;
  visibility: number;
  upscale: 1 | 2 | 4;
  identity: "guard" | null;
  mask: "feather" | "parse";
  /** The format of the file that is made; absent: the photograph's own. */
  format?: "png" | null;
}

/** What was asked for, as it was then. `key`: several tabs may send it, and it is still one job. */
export interface WantedRestoration {
  key: string;
  input: RestoreInput;
  /** What was asked for by one click has the same, so that its progress can be told. */
  together?: string;
}

/** Why the gateway did not take a restoration: what makes a `Problem`. */
export interface Refusal {
  status: number;
  code: string;
  message: string;
  fields: { field: string; message: string }[];
}

/** A photograph that is restored. `id`: the job that found its faces and keeps the file. */
export interface Photograph extends EntryBase {
  kind: "photograph";
  fileName: string;
  /** Photographs that were dropped together. */
  batch: string;
  /** The file's media type. Absent: added before it was kept. */
  mediaType?: string;
  /** Set once the faces have been found. */
  width: number;
  height: number;
  faces: FoundFace[] | null;
  settings: PhotographSettings;
  /** By the index of the face. */
  choices: Record<number, FaceChoice>;
  /** The job that restored it, or does; null before that. */
  restoration: string | null;
  /** A restoration that has been asked for and waits in the page, since few are sent at a time. */
  wanted?: WantedRestoration | null;
  /** What `restoration` was asked for with. */
  asked?: RestoreInput;
  /** `together` of what became `restoration`. */
  together?: string | null;
  /** Why it could not be asked for. */
  refusal?: Refusal | null;
  /** The job that looks for faces again, more thoroughly. */
  lookingAgain?: string | null;
  /** A thorough look has ended: what `faces` says is its result. */
  lookedThoroughly?: boolean;
  /** By the index of the face: the job that compares its fidelities. */
  strips?: Record<number, string>;
}

export type Entry = Creation | Photograph;

/** A file on its way to the gateway, so that a reload goes on with it. */
export interface Upload {
  /** Also the key of its submission: sent twice, it is one job. */
  id: string;
  batch: string;
  createdAt: number;
  isFirst: boolean;
  name: string;
  file: Blob;
}

interface Schema extends DBSchema {
  entries: { key: string; value: Entry };
  uploads: { key: string; value: Upload };
}

const channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("atelier.entries");
let database: Promise<IDBPDatabase<Schema>> | null = null;
/** Changes of this page that are not in the database yet; `count`: of all that there have been. */
const writing = { pending: new Set<Promise<void>>(), count: 0 };
/** An older page holds the database back. */
let isBlocked = false;

function open(): Promise<IDBPDatabase<Schema>> {
  database ??= openDB<Schema>("atelier", 2, {
    upgrade(created, version) {
      if (version < 1) created.createObjectStore("entries", { keyPath: "id" });
      if (version < 2) created.createObjectStore("uploads", { keyPath: "id" });
    },
    // A newer page in another tab wants to change the database: let it, and open it again when it is needed.
    blocking(_version, _blockedVersion, event) {
      (event.target as IDBDatabase).close();
      database = null;
    },
    // An older page in another tab does not: this one works until that one is closed, but keeps nothing.
    blocked() {
      isBlocked = true;
      entriesAreLost.value = true;
      entriesAreRead.value = true;
    },
    terminated: () => (database = null),
  });
  database.catch(() => (database = null)); // the next use tries again
  return database;
}

/** The database, for `uploads.ts`. Raises where there is none. */
export const openDatabase = open;

const all = signal<ReadonlyMap<string, Entry>>(new Map());
/** The database has been read. */
export const entriesAreRead = signal(false);
/** It cannot be used (a private window, say): what is asked for is lost with the page. */
export const entriesAreLost = nothingIsKept;

/** Newest first. */
export const entries = computed(() => [...all.value.values()].sort((a, b) => b.createdAt - a.createdAt));
export const creations = computed(() => entries.value.filter((entry) => entry.kind === "creation"));
export const photographs = computed(() => entries.value.filter((entry) => entry.kind === "photograph"));

export function entryOf(id: string): Entry | null {
  return all.value.get(id) ?? null;
}

/** Read the database, and follow what other tabs do to it. */
export async function readEntries(): Promise<void> {
  channel?.addEventListener("message", () => void reread());
  await reread();
  entriesAreRead.value = true;
}

async function reread(): Promise<void> {
  try {
    for (;;) {
      await Promise.all(writing.pending);
      const { count } = writing;
      const found = await (await open()).getAll("entries");
      if (count !== writing.count) continue; // what was read is older than what is shown
      all.value = new Map(found.map((entry) => [entry.id, entry]));
      if (isBlocked) entriesAreLost.value = false;
      isBlocked = false;
      return;
    }
  } catch {
    entriesAreLost.value = true;
  }
}

/** Return what the change returns; null if the database cannot be used. */
async function write<T>(change: (open: IDBPDatabase<Schema>) => Promise<T>): Promise<T | null> {
  let written = () => {};
  const pending = new Promise<void>((resolve) => (written = resolve));
  writing.pending.add(pending);
  writing.count += 1;
  try {
    const result = await change(await open());
    channel?.postMessage("changed");
    return result;
  } catch {
    entriesAreLost.value = true;
    return null;
  } finally {
    writing.pending.delete(pending);
    written();
  }
}

/** Add an entry, or put it in place of the one of its ID. */
export async function putEntry(entry: Entry): Promise<void> {
  all.value = new Map(all.value).set(entry.id, entry);
  await write((opened) => opened.put("entries", entry));
}

/**
 * Change an entry, if it is still there: by what it is in the database, where another tab may have changed it. Return
 * whether it was.
 *
 * `change` must be pure, for it is called twice: with what is shown, at once, and with what is in the database. Whatever
 * is random or depends on the time is made outside of it.
 */
export async function changeEntry<E extends Entry>(
  id: string,
  change: (entry: E) => E,
): Promise<boolean> {
  const shown = all.value.get(id);
  if (shown) all.value = new Map(all.value).set(id, change(shown as E));
  const isStored = await write(async (opened) => {
    const transaction = opened.transaction("entries", "readwrite");
    const stored = await transaction.store.get(id);
    if (stored) await transaction.store.put(change(stored as E));
    await transaction.done;
    return stored !== undefined;
  });
  return isStored ?? all.value.has(id);
}

/** An entry as the database has it, where another tab may have changed it; as it is shown if that cannot be read. */
export async function storedEntry(id: string): Promise<Entry | null> {
  try {
    return (await (await open()).get("entries", id)) ?? null;
  } catch {
    return entryOf(id);
  }
}

/** Remove an entry, and nothing of what the gateway has of it: see `deleteEntry` in deleting.ts. */
export async function removeEntry(id: string): Promise<void> {
  const rest = new Map(all.value);
  rest.delete(id);
  all.value = rest;
  await write((opened) => opened.delete("entries", id));
}
