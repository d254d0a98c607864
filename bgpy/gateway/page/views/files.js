// Files of this computer, read for an upload: those that were chosen, and those that were dropped, with their folders.

//: As many files as a run may have, and bytes that the gateway takes in one message, with some room.
const MOST = 1000;
const MOST_BYTES = 16 * 2 ** 20 - 4096;

/**
 * Return the files as a run takes them: `filename`, `content`, `encoding` ("text", or "base64" of what is no text), `size` in bytes.
 *
 * `files` are [name, File] pairs.
 */
export function readFiles(files) {
  if (files.length > MOST) {
    throw new Error(`A run has at most ${MOST.toLocaleString("en")} files.`);
  }
  checkSize(files.reduce((sum, [, file]) => sum + file.size, 0));
  return Promise.all(files.map(async ([filename, file]) => ({ filename, size: file.size, ...readBytes(await file.arrayBuffer()) })));
}

/** Raise an error where so many bytes are too many for one upload. */
export function checkSize(bytes) {
  if (bytes > MOST_BYTES) {
    throw new Error(`These files have ${sizeText(bytes)} together; an upload has at most ${sizeText(MOST_BYTES)}.`);
  }
}

/** Return the [name, File] pairs of what was dropped; a folder's files have its name before theirs. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) {
    return [...transfer.files].map((file) => [file.name, file]);
  }
  const found = [];
  for (const entry of entries) {
    await collect(entry, "", found);
  }
  return found;
}

async function collect(entry, folder, found) {
  const name = folder + entry.name;
  if (entry.isFile) {
    found.push([name, await new Promise((resolve, reject) => entry.file(resolve, reject))]);
    return;
  }
  const reader = entry.createReader();
  // A reader gives a hundred at a time, and none at the end.
  for (let part = [null]; part.length && found.length <= MOST;) {
    part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    for (const one of part) {
      await collect(one, `${name}/`, found);
    }
  }
}

function readBytes(buffer) {
  try {
    return { content: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(buffer), encoding: "text" };
  } catch {
    const bytes = new Uint8Array(buffer);
    const pieces = [];
    for (let at = 0; at < bytes.length; at += 0x8000) {
      pieces.push(String.fromCharCode(...bytes.subarray(at, at + 0x8000)));
    }
    return { content: btoa(pieces.join("")), encoding: "base64" };
  }
}

/** Return a number of bytes as people write it. */
export function sizeText(bytes) {
  for (const [unit, size] of [
    ["MB", 2 ** 20],
    ["kB", 2 ** 10],
  ]) {
    if (bytes >= size) {
      return `${(bytes / size).toLocaleString("en", { maximumFractionDigits: 1 })} ${unit}`;
    }
  }
  return `${bytes} bytes`;
}
