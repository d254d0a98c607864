// A new run: its files, written here or uploaded, and the one of them that is run.

import { h, labelled } from "../dom.js";
import { keepDraft, readDraft } from "../drafts.js";
import { editor } from "../editor.js";
import { attempt, say } from "../messages.js";
import { checkSize, droppedFiles, readFiles, sizeText } from "./files.js";

const DRAFT = "bgpy run draft";
const HINT = "Write Python code here";
//: What opens a window elsewhere.
const SHOWS = /\b(plt|pyplot|fig|figure)\.show\(/;

/** Fill the main part of the view with a form for a new run; returns what `openRun` returns. */
export function openNewRun(main, ask) {
  const draft = readDraftFiles();
  let files = draft.files;
  let mainfile = draft.mainfile;
  let chosen = files.find((file) => file.filename === mainfile) ?? files[0];
  let code = null;

  const list = h("ul", { class: "files", "aria-label": "Files" });
  const input = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files to upload" });
  const name = h("input", { type: "text", spellcheck: false, autocomplete: "off", maxLength: 200 });
  const place = h("div", { class: "code" });
  const binary = h("p", { class: "empty", hidden: true }, "This file is no text. It is uploaded as it is.");
  const start = h("button", { type: "button", class: "primary", onclick: run, "aria-keyshortcuts": "Control+Enter" }, "Run");
  const what = h("span", { class: "hint grow" });
  const card = h(
    "section",
    { class: "card stack drop", "aria-label": "Files of the run" },
    h(
      "div",
      { class: "uploads" },
      h(
        "div",
        { class: "stack" },
        h("div", { class: "row" }, h("h2", { class: "grow" }, "Files"), h("button", { type: "button", class: "small", onclick: add }, "New file")),
        list,
        h(
          "div",
          { class: "empty" },
          h("p", {}, "Drop files or folders here, or"),
          h("button", { type: "button", onclick: () => input.click() }, "Choose files"),
          input,
        ),
      ),
      h("div", { class: "stack" }, labelled("File name", name, "A slash makes a folder: data/train.csv"), place, binary),
    ),
    h("div", { class: "row" }, start, what, h("span", { class: "hint keys" }, "Ctrl-Enter runs. Escape, then Tab leaves the editor.")),
  );
  main.append(
    h("h1", {}, "New run"),
    h("p", {}, "Write the files of a program, or upload them. They run in a fresh process, in a folder of their own."),
    card,
  );
  input.addEventListener("change", () =>
    attempt(async () => {
      const picked = [...input.files].map((file) => [file.name, file]);
      input.value = "";
      take(await readFiles(picked));
    }),
  );
  name.addEventListener("change", rename);
  catchDrops(card, take);
  open(chosen);

  function take(added) {
    if (added.length === 0) {
      return;
    }
    const names = new Set(added.map((file) => file.filename));
    // The empty file that is there at first makes room.
    files = files.filter((file) => !names.has(file.filename) && (file.content !== "" || file.filename !== "main.py")).concat(added);
    if (!files.some((file) => file.filename === mainfile)) {
      const scripts = files.filter((file) => file.filename.endsWith(".py"));
      mainfile = (scripts.find((file) => file.filename.endsWith("main.py")) ?? scripts[0] ?? files[0]).filename;
    }
    open(files.find((file) => file.filename === mainfile));
    keep();
    say(added.length === 1 ? `${added[0].filename} was added.` : `${added.length} files were added.`);
  }

  function add() {
    let number = 1;
    const free = () => !files.some((file) => file.filename === `module${number}.py`);
    while (!free()) {
      number += 1;
    }
    const file = { filename: `module${number}.py`, content: "", encoding: "text", size: 0 };
    files = [...files, file];
    open(file);
    keep();
    name.select();
    name.focus();
  }

  function remove(file) {
    files = files.filter((one) => one !== file);
    if (files.length === 0) {
      files = emptyDraft().files;
    }
    if (!files.some((one) => one.filename === mainfile)) {
      mainfile = (files.find((one) => one.filename.endsWith(".py")) ?? files[0]).filename;
    }
    open(chosen === file ? files[0] : chosen);
    keep();
    list.querySelector("[aria-current] button")?.focus();
  }

  function rename() {
    const wanted = name.value.trim();
    const taken = files.some((file) => file !== chosen && file.filename === wanted);
    name.setCustomValidity(taken ? "There is another file of this name." : wanted ? "" : "A file needs a name.");
    if (!name.reportValidity()) {
      return;
    }
    mainfile = mainfile === chosen.filename ? wanted : mainfile;
    chosen.filename = wanted;
    draw();
    keep();
  }

  function open(file) {
    chosen = file;
    name.value = file.filename;
    name.setCustomValidity("");
    code?.close();
    place.replaceChildren();
    code = null;
    place.hidden = !(binary.hidden = file.encoding === "text");
    if (file.encoding === "text") {
      // An editor for each: what was typed in one file cannot be undone into another.
      const language = file.filename.endsWith(".py") ? "python" : "text";
      const changed = (text) => {
        Object.assign(file, { content: text, size: new Blob([text]).size });
        draw();
        keep();
      };
      code = editor(place, {
        label: `Content of ${file.filename}`,
        text: file.content,
        language,
        hint: language === "python" ? HINT : "",
        run,
        changed,
      });
    }
    draw();
  }

  function draw() {
    const line = (file) => {
      const radio = h("input", { type: "radio", name: "mainfile", checked: file.filename === mainfile, "aria-label": `Run ${file.filename}` });
      radio.addEventListener("change", () => {
        mainfile = file.filename;
        keep();
        tell();
      });
      return h(
        "li",
        file === chosen ? { "aria-current": "true" } : {},
        radio,
        h("button", { type: "button", class: "quiet grow", title: file.filename, onclick: () => open(file) }, file.filename),
        h("small", { class: "hint" }, sizeText(file.size)),
        h("button", { type: "button", class: "quiet", "aria-label": `Remove ${file.filename}`, onclick: () => remove(file) }, "×"),
      );
    };
    list.replaceChildren(...files.map(line));
    tell();
  }

  function tell() {
    what.textContent = files.length > 1 ? `${mainfile} is run: the file with the mark.` : "";
  }

  function keep() {
    keepDraft(DRAFT, JSON.stringify({ files, mainfile }));
  }

  function run() {
    const main = files.find((file) => file.filename === mainfile);
    if (main.encoding === "text" && !main.content.trim()) {
      say(`There is no code in ${mainfile} yet.`);
      open(main);
      code.focus();
      return;
    }
    attempt(async () => {
      const python = { number: files.length, files: files.map(({ filename, content, encoding }) => ({ filename, content, encoding })), mainfile };
      if (files.some((file) => file.encoding === "text" && SHOWS.test(file.content))) {
        say("No window opens for show(). To see a figure, keep it in a variable, and press its name when the run has ended.");
      }
      checkSize(new Blob([JSON.stringify(python)]).size);
      start.disabled = true;
      try {
        const { sessionId } = await ask("run", { python });
        location.hash = `#runs/${encodeURIComponent(sessionId)}`;
      } finally {
        start.disabled = false;
      }
    }, "run");
  }

  return { hear() {}, connected() {}, tell() {}, close: () => code?.close() };
}

function catchDrops(card, take) {
  // An element that is dragged over tells of its children, too.
  let depth = 0;
  const mark = (by) => card.classList.toggle("over", (depth = Math.max(0, depth + by)) > 0);
  card.addEventListener("dragenter", () => mark(1));
  card.addEventListener("dragleave", () => mark(-1));
  card.addEventListener("dragover", (event) => event.preventDefault(), true);
  card.addEventListener(
    "drop",
    (event) => {
      if (event.dataTransfer.types.includes("Files")) {
        event.preventDefault();
        event.stopPropagation();
        attempt(async () => take(await readFiles(await droppedFiles(event.dataTransfer))));
      }
      mark(-depth);
    },
    true,
  );
}

function emptyDraft() {
  return { files: [{ filename: "main.py", content: "", encoding: "text", size: 0 }], mainfile: "main.py" };
}

function readDraftFiles() {
  try {
    const draft = JSON.parse(readDraft(DRAFT));
    return draft?.files?.length ? draft : emptyDraft();
  } catch {
    return emptyDraft();
  }
}
