/** The names of files that leave the tab. */

const EXTENSIONS: Record<string, string[]> = {
  "image/png": ["png"],
  "image/jpeg": ["jpg", "jpeg"],
  "image/webp": ["webp"],
};

/** `wedding.JPG` -> `wedding-restored.JPG`; another extension only where the file's type is another. */
export function restoredName(fileName: string, contentType: string): string {
  const dot = fileName.lastIndexOf(".");
  const stem = (dot > 0 ? fileName.slice(0, dot) : fileName) || "photograph";
  const extension = dot > 0 ? fileName.slice(dot + 1) : "";
  const allowed = EXTENSIONS[contentType] ?? [];
  const kept = allowed.length === 0 || allowed.includes(extension.toLowerCase()) ? extension : allowed[0];
  return kept ? `${stem}-restored.${kept}` : `${stem}-restored`;
}

/** Names that no two files get, also for file systems that do not tell capitals apart: call it with one after another. */
export function uniqueNames(): (name: string) => string {
  const taken = new Set<string>();
  return (name) => {
    const dot = name.lastIndexOf(".");
    const [stem, end] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
    let free = name;
    for (let number = 2; taken.has(free.toLowerCase()); number += 1) free = `${stem} (${number})${end}`;
    taken.add(free.toLowerCase());
    return free;
  };
}

/** Separators of paths, what Windows forbids, control characters, and those that turn the direction of a text. */
const FORBIDDEN = /[/\\:*?"<>|\p{Cc}\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]/gu;
const RESERVED = /^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)/i;

/** A name as every file system takes it, whatever the photograph's name is. */
export function safeName(name: string): string {
  const tidy = name.replace(FORBIDDEN, "_").replace(/^[\s.]+|[\s.]+$/g, "");
  return tidy.replace(RESERVED, "$1_") || "photograph";
}
