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

/** The same names, but no two alike, also for file systems that do not tell capitals apart. */
export function unique(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    const dot = name.lastIndexOf(".");
    const [stem, end] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
    let free = name;
    for (let number = 2; taken.has(free.toLowerCase()); number += 1) free = `${stem} (${number})${end}`;
    taken.add(free.toLowerCase());
    return free;
  });
}
