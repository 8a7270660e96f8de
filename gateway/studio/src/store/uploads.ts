/** Files that are not with the gateway yet, kept in IndexedDB: a reload goes on with them. */
import { openDatabase, type Upload } from "./entries";

const channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("atelier.uploads");
const ANSWER_MS = 400;

/** Keep files; raises where the browser cannot. */
export async function keepUploads(uploads: readonly Upload[]): Promise<void> {
  const transaction = (await openDatabase()).transaction("uploads", "readwrite");
  await Promise.all([...uploads.map((upload) => transaction.store.put(upload)), transaction.done]);
}

export async function forgetUpload(id: string): Promise<void> {
  try {
    await (await openDatabase()).delete("uploads", id);
  } catch {
    // where nothing can be kept, nothing is to be forgotten
  }
}

/**
 * What an earlier page has left behind, oldest first. What another page that is open sends is left to it: `held` says
 * which ones this page has, whenever another asks.
 */
export async function orphanedUploads(held: () => string[]): Promise<Upload[]> {
  const others = new Set<string>();
  channel?.addEventListener("message", ({ data }: MessageEvent<{ ask?: true; held?: string[] }>) => {
    if (data.ask) channel.postMessage({ held: held() });
    for (const id of data.held ?? []) others.add(id);
  });
  try {
    const database = await openDatabase();
    if ((await database.count("uploads")) === 0) return [];
    channel?.postMessage({ ask: true });
    if (channel) await new Promise((resolve) => setTimeout(resolve, ANSWER_MS));
    const left = await database.getAll("uploads");
    const own = new Set(held());
    return left.filter(({ id }) => !others.has(id) && !own.has(id)).sort((a, b) => a.createdAt - b.createdAt);
  } catch {
    return [];
  }
}
