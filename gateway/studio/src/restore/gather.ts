/** Files from what a person drops or pastes: folders are read to their ends. */

const PICTURES = /\.(png|jpe?g|webp)$/i;

/** Whether a file of a folder is a picture; what is named on its own is taken whatever it is, and told of if wrong. */
export function isPicture(file: File): boolean {
  return /^image\/(png|jpeg|webp)$/.test(file.type) || PICTURES.test(file.name);
}

/** All files of a drop. Must be called while the event is handled: its items are gone afterwards. */
export async function filesOf(transfer: DataTransfer): Promise<File[]> {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const roots = items.map((item) => ({ entry: item.webkitGetAsEntry?.() ?? null, file: item.getAsFile() }));
  const files: File[] = [];
  for (const { entry, file } of roots) {
    if (entry?.isDirectory) files.push(...(await filesBelow(entry as FileSystemDirectoryEntry)));
    else if (file) files.push(file);
  }
  return files;
}

async function filesBelow(folder: FileSystemDirectoryEntry): Promise<File[]> {
  const files: File[] = [];
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) {
      files.push(...(await filesBelow(entry as FileSystemDirectoryEntry)));
      continue;
    }
    const file = await fileOf(entry as FileSystemFileEntry);
    if (file && isPicture(file)) files.push(file);
  }
  return files;
}

/** A folder's entries, in the order of their names; a browser gives a hundred at a time. */
async function entriesOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const found: FileSystemEntry[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (some.length === 0) break;
    found.push(...some);
  }
  return found.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

function fileOf(entry: FileSystemFileEntry): Promise<File | null> {
  return new Promise((resolve) => entry.file(resolve, () => resolve(null)));
}
