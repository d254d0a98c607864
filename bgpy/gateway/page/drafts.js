// What is being written, kept by the browser: each tab has its own, and a new tab begins with what was written last.

//: Characters of a draft that a browser surely keeps.
const KEPT = 2_000_000;

/** Return a draft, "" where there is none. */
export function readDraft(name) {
  return sessionStorage.getItem(name) ?? localStorage.getItem(name) ?? "";
}

/** Keep a draft; one that is too long is not kept. */
export function keepDraft(name, text) {
  for (const storage of [sessionStorage, localStorage]) {
    try {
      storage.setItem(name, text.length < KEPT ? text : "");
    } catch {
      storage.removeItem(name); // full, or not allowed
    }
  }
}
