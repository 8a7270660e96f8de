/** What can be told of a file without the gateway, by its size and its first bytes. */

export type Unusable = "empty" | "notPicture" | "unreadable";

const SIGNATURES: readonly [string, RegExp][] = [
  ["image/png", /^\x89PNG\r\n\x1a\n/],
  ["image/jpeg", /^\xff\xd8\xff/],
  ["image/webp", /^RIFF[^]{4}WEBP/],
];

/** A file's media type by what is in it, whatever its name says; or why it cannot be restored. */
export async function kindOfFile(file: Blob): Promise<{ mediaType: string } | { unusable: Unusable }> {
  if (file.size === 0) return { unusable: "empty" };
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  } catch {
    return { unusable: "unreadable" }; // it was moved or deleted in the meantime
  }
  const begin = String.fromCharCode(...bytes);
  const found = SIGNATURES.find(([, signature]) => signature.test(begin));
  return found ? { mediaType: found[0] } : { unusable: "notPicture" };
}
