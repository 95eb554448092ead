// Files out of drops, pastes and pickers, folders and all that is in them.

const IMAGES = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|heic|heif|avif)$/i;

export const isImage = (file) => file.type.startsWith("image/") || IMAGES.test(file.name);

/** What a drop or a paste holds, as `{file, inFolder}` one after the other. Call it while the event is handled. */
export function filesOf(transfer) {
  const entries = [];
  const files = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    if (entry?.isDirectory) entries.push(entry);
    else if (item.getAsFile()) files.push(item.getAsFile());
  }
  return walk(entries, files);
}

async function* walk(entries, files) {
  for (const file of files) yield { file, inFolder: false };
  const folders = [...entries];
  while (folders.length) {
    const reader = folders.shift().createReader();
    for (;;) {
      // A folder is read in portions; the last one is empty.
      const found = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!found.length) break;
      folders.push(...found.filter((entry) => entry.isDirectory));
      const read = found
        .filter((entry) => entry.isFile)
        .map((entry) => new Promise((resolve, reject) => entry.file(resolve, reject)));
      for (const file of await Promise.all(read)) yield { file, inFolder: true };
    }
  }
}

/** What a picker gave. */
export async function* picked(input) {
  for (const file of [...input.files]) yield { file, inFolder: Boolean(file.webkitRelativePath) };
}

export const hasFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");

/** The first image of a drop or a paste, or null. */
export function firstImage(transfer) {
  return [...(transfer?.files ?? [])].find(isImage) ?? null;
}
