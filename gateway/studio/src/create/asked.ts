/**
 * Requests for drawings that have not been answered yet: kept before they are sent, with their key, so that a page
 * that is loaded anew sends them again. Whoever sends one, and how often: its key makes it one job.
 */
import { type DBSchema, type IDBPDatabase, openDB } from "idb";
import type { GenerateInput } from "../api/types";

export interface Asked {
  key: string;
  at: number;
  input: GenerateInput;
  /** What it asks for in the form's words, where `input` names a file's recipe. */
  shown: GenerateInput;
  files: Record<string, File>;
}

interface Schema extends DBSchema {
  asked: { key: string; value: Asked };
}

/** What is older, nobody waits for any more. */
const OLDEST_MS = 10 * 60 * 1000;

/** Do something with the database; where the browser has none for this page, do without. */
async function use<T>(action: (opened: IDBPDatabase<Schema>) => Promise<T>, otherwise: T): Promise<T> {
  try {
    const opened = await openDB<Schema>("atelier.asked", 1, {
      upgrade: (created) => void created.createObjectStore("asked", { keyPath: "key" }),
    });
    try {
      return await action(opened);
    } finally {
      opened.close();
    }
  } catch {
    return otherwise; // a private window, or a full disk: what is asked for is sent all the same
  }
}

export function keepAsked(asked: Asked): Promise<void> {
  return use(async (opened) => void (await opened.put("asked", asked)), undefined);
}

export function forgetAsked(key: string): Promise<void> {
  return use((opened) => opened.delete("asked", key), undefined);
}

/** What was asked for and not answered, oldest first. */
export async function readAsked(now = Date.now()): Promise<Asked[]> {
  const all = await use((opened) => opened.getAll("asked"), []);
  const isLate = ({ at }: Asked) => at < now - OLDEST_MS;
  for (const { key } of all.filter(isLate)) await forgetAsked(key);
  return all.filter((asked) => !isLate(asked)).sort((a, b) => a.at - b.at);
}

/**
 * The key of a request: a new one, unless the very same was sent a short time ago and nobody knows what became of it.
 */
export class Keys {
  readonly #random: () => string;
  #unanswered: { key: string; what: string; at: number } | null = null;

  constructor(random: () => string) {
    this.#random = random;
  }

  of(input: GenerateInput, now = Date.now()): string {
    const last = this.#unanswered;
    const isSame = last !== null && last.what === JSON.stringify(input) && last.at > now - OLDEST_MS;
    return isSame ? last.key : this.#random();
  }

  /** There was no answer, or none that says whether there is a job now. */
  unanswered({ key, input }: Pick<Asked, "key" | "input">, now = Date.now()): void {
    this.#unanswered = { key, what: JSON.stringify(input), at: now };
  }

  answered(): void {
    this.#unanswered = null;
  }
}
