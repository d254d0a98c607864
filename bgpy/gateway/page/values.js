// Values as people read them: tables, pictures, texts, errors.

import { h, unseen } from "./dom.js";
import { attempt } from "./messages.js";

//: Rows of a table, entries of an array or object, that are shown at once.
const ROWS = 25;
const COLUMNS = 60;
//: Characters of a text that are shown before all of it is asked for.
const TEXT = 20_000;
const DEPTH = 6;
const NUMBER = /^(-?\d+(\.\d+)?(e[+-]?\d+)?|NaN|-?inf)$/i;
//: What a PNG begins with, in base64: a figure comes as plain text.
const PNG = "iVBORw0KGgo";
//: Types whose values come as base64.
const BYTES = ["bytes", "bytearray", "memoryview"];

/**
 * Return an element that shows a value of bgpy's JSON.
 *
 * `about` is what is known besides: `type` (the name of its Python type), `shape`, `encoding`, "png-base64" of a picture, and
 * `nulls`, what nulls in it are.
 */
export function valueView(value, about = {}, depth = 0) {
  if (typeof value === "string") {
    return textView(value, about);
  }
  if (value === null || typeof value !== "object") {
    return h("code", { class: "value" }, brief(value, about.type, about.nulls));
  }
  if (value.truncated === true && "type" in value && "shape" in value) {
    return h(
      "p",
      { class: "value" },
      describe(value.type, value.shape),
      h("small", { class: "hint" }, " Too large to be shown whole."),
    );
  }
  const entries = Array.isArray(value) ? value : Object.entries(value);
  if (entries.length === 0) {
    return h("code", { class: "value" }, Array.isArray(value) ? "[]" : "{}");
  }
  if (depth >= DEPTH) {
    return h("code", { class: "value" }, JSON.stringify(value).slice(0, 200));
  }
  return Array.isArray(value) ? arrayView(value, about.nulls) : objectView(entries, depth, about.nulls);
}

/** Return what stands for null in values of a type: JSON has no NaN, and none of its kind. */
export function missing(type) {
  if (/^(float|complex|double|half|bfloat)/.test(type)) {
    return "NaN";
  }
  return /^(datetime|timedelta|Timestamp|Timedelta|NaTType)/.test(type) ? "NaT" : /^(U?Int|Float|boolean|string|NAType)/.test(type) ? "NA" : null;
}

/** Return what stands for null by what the server says that nulls are, as ["NaN"]; that is None where it says nothing. */
export function nullWord(nulls) {
  return nulls?.length ? nulls.join(" or ") : "None";
}

/**
 * Return one short line for a value, for lists of them; `type` is the name of its type, `nulls` what null is, where these are
 * known.
 */
export function brief(value, type, nulls) {
  if (value !== null && typeof value === "object" && value.truncated === true && "type" in value) {
    return describe(value.type, value.shape);
  }
  if (typeof value === "string") {
    return value.startsWith(PNG) ? "picture" : shorten(JSON.stringify(value), 60);
  }
  if (value === null) {
    return nulls || !type ? nullWord(nulls) : single(type);
  }
  return shorten(written(value, nulls), 60);
}

/** Return plain data as Python writes it, nearly. */
function written(value, nulls) {
  if (Array.isArray(value)) {
    return `[${value.map((item) => written(item, nulls)).join(", ")}]`;
  }
  if (value !== null && typeof value === "object") {
    return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${written(item, nulls)}`).join(", ")}}`;
  }
  return value === null ? nullWord(nulls) : value === true ? "True" : value === false ? "False" : JSON.stringify(value);
}

/** Return what stands for null where it is all of a value: nobody can see whether that is missing or infinite. */
function single(type) {
  const text = missing(type) ?? "None";
  return text === "NaN" ? "NaN or infinite" : text;
}

/** Return a type and its shape as text: "DataFrame, 1,000 × 3". */
export function describe(type, shape) {
  const lengths = shape?.length ? `, ${shape.map((length) => length.toLocaleString("en")).join(" × ")}` : "";
  return `${type}${lengths}`;
}

/** Return an element for an error of a job: { type, message, traceback }. */
export function errorView(error) {
  return h(
    "div",
    { class: "failure", role: "group", "aria-label": "Error" },
    h("p", {}, h("strong", {}, error.type), error.message ? `: ${error.message}` : ""),
    error.traceback ? h("pre", { class: "traceback", tabIndex: 0, "aria-label": "Traceback" }, error.traceback.trimEnd()) : null,
  );
}

/**
 * Return a table that shows a window of its rows and buttons for the others.
 *
 * `columns` is a list of names, `count` says how many rows there are, `fetch(from, to)` returns those rows, each a list of cells
 * in the columns' order, or a promise of them. `head` is whether the first cell of a row names it, as the index of a data frame
 * does; `nulls` is what nulls are.
 */
export function tableView({ label, columns, count, fetch, head = false, nulls }) {
  const shown = columns.slice(0, COLUMNS);
  const heads = shown.map((name) => h("th", { scope: "col" }, name || unseen("span", "Row")));
  const body = h("tbody");
  const where = h("span", { role: "status" });
  const pages = [
    ["First", () => 0],
    ["Previous", () => from - ROWS],
    ["Next", () => from + ROWS],
    ["Last", () => last],
  ];
  const buttons = pages.map(([text, to]) =>
    h("button", { type: "button", class: "small", onclick: () => attempt(() => move(to())) }, text),
  );
  const last = Math.max(0, Math.floor((count - 1) / ROWS) * ROWS);
  let from = 0;

  async function move(to) {
    const rows = await fetch(to, Math.min(count, to + ROWS));
    from = to;
    body.replaceChildren(
      ...rows.map((row) =>
        h(
          "tr",
          {},
          row.slice(0, COLUMNS).map((cell, index) => cellOf(cell, head && index === 0, nulls)),
        ),
      ),
    );
    heads.forEach((one, index) =>
      one.classList.toggle("number", body.rows[0]?.cells[index].classList.contains("number") === true),
    );
    const [first, end, all] = [from + 1, Math.min(count, from + ROWS), count].map((number) => number.toLocaleString("en"));
    where.textContent = `Rows ${first}–${end} of ${all}`;
    buttons.forEach((button, index) => button.setAttribute("aria-disabled", String(index < 2 ? from === 0 : from >= last)));
  }
  for (const button of buttons) {
    button.addEventListener(
      "click",
      (event) => button.getAttribute("aria-disabled") === "true" && event.stopImmediatePropagation(),
      true,
    );
  }
  attempt(() => move(0));
  return h(
    "div",
    { class: "table" },
    h(
      "div",
      { class: "scroll", tabIndex: 0, role: "region", "aria-label": label },
      h("table", {}, h("thead", {}, h("tr", {}, heads)), body),
    ),
    columns.length > shown.length ? h("p", { class: "hint" }, `${columns.length - shown.length} more columns`) : null,
    count > ROWS ? h("div", { class: "pages" }, buttons, where) : null,
  );
}

/** Return a picture, a PNG in base64, on a canvas: the page may load images from no address that a value could have. */
export function pictureView(base64, label = "Figure") {
  const canvas = h("canvas", { class: "picture", role: "img", "aria-label": label, width: 1, height: 1 });
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  createImageBitmap(new Blob([bytes], { type: "image/png" })).then(
    (bitmap) => {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
      canvas.dataset.ready = "yes";
    },
    () => canvas.replaceWith(h("p", { class: "hint" }, "This picture cannot be read.")),
  );
  return canvas;
}

/**
 * Return the rows of a text in CSV, or null where it is none: all rows have as many cells, at least two, and there are two rows.
 */
export function readCsv(text) {
  const rows = [];
  let row = [];
  let at = 0;
  while (at < text.length) {
    let cell = "";
    if (text[at] === '"') {
      for (at += 1; text[at] !== '"' || text[at + 1] === '"'; at += 1) {
        if (at >= text.length) {
          return null;
        }
        if (text[at] === '"') {
          at += 1;
        }
        cell += text[at];
      }
      at += 1;
    } else {
      const end = /[,\n]/g;
      end.lastIndex = at;
      const stop = end.exec(text)?.index ?? text.length;
      cell = text.slice(at, stop);
      at = stop;
    }
    row.push(cell);
    if (at < text.length && text[at] !== "," && text[at] !== "\n") {
      return null;
    }
    if (at >= text.length || text[at] === "\n") {
      if (rows.length && row.length !== rows[0].length) {
        return null;
      }
      rows.push(row);
      row = [];
    } else if (at === text.length - 1) {
      row.push("");
    }
    at += 1;
  }
  return rows.length > 1 && rows[0].length > 1 ? rows : null;
}

function textView(text, about) {
  const unsure = about.type === undefined || about.type === null;
  if (about.encoding === "png-base64" || (about.type !== "str" && text.startsWith(PNG) && /^[A-Za-z0-9+/]+={0,2}$/.test(text))) {
    return pictureView(text);
  }
  if (about.encoding === "base64" || BYTES.includes(about.type)) {
    return h("div", { class: "stack" }, plainText(text), h("p", { class: "hint" }, "These are bytes, in base64."));
  }
  // A data frame comes as CSV. Where nobody says what it is: one that begins with the empty name of its index.
  const rows = about.type === "DataFrame" || (unsure && text.startsWith(",")) ? readCsv(text) : null;
  if (rows === null) {
    return plainText(text);
  }
  const [columns, ...others] = rows;
  nameMissing(others);
  const table = tableView({
    label: "Table",
    columns,
    count: others.length,
    fetch: (from, to) => others.slice(from, to),
    head: true,
  });
  return h("div", { class: "stack" }, table, h("details", { class: "raw" }, h("summary", {}, "As text"), plainText(text)));
}

/** Write NaN where CSV has nothing, in columns that have numbers and nothing else. */
function nameMissing(rows) {
  for (let column = 1; column < rows[0].length; column += 1) {
    const cells = rows.map((row) => row[column]);
    if (cells.includes("") && cells.some((cell) => NUMBER.test(cell)) && cells.every((cell) => cell === "" || NUMBER.test(cell))) {
      rows.forEach((row) => (row[column] ||= "NaN"));
    }
  }
}

function plainText(text) {
  const pre = h("pre", { class: "value", tabIndex: 0, "aria-label": "Text" }, text.slice(0, TEXT));
  if (text.length <= TEXT) {
    return pre;
  }
  const more = h("button", { type: "button", class: "small" }, `Show all ${text.length.toLocaleString("en")} characters`);
  more.addEventListener("click", () => {
    pre.textContent = text;
    more.remove();
  });
  return h("div", {}, pre, more);
}

function arrayView(items, nulls) {
  const plainItems = items.every((item) => item === null || typeof item !== "object");
  if (plainItems && items.length <= ROWS && JSON.stringify(items).length < 400) {
    return h("code", { class: "value" }, `[${items.map((item) => brief(item, undefined, nulls)).join(", ")}]`);
  }
  const label = `List of ${items.length.toLocaleString("en")}`;
  const slice = (make) => (from, to) => items.slice(from, to).map((item, index) => make(item, from + index));
  if (items.every((item) => Array.isArray(item) && item.length === items[0].length && item.length > 0)) {
    const columns = ["", ...items[0].map((_, index) => String(index))];
    return tableView({ label, columns, count: items.length, fetch: slice((item, index) => [index, ...item]), head: true, nulls });
  }
  if (items.every((item) => item !== null && typeof item === "object" && !Array.isArray(item))) {
    const names = [...new Set(items.slice(0, 200).flatMap(Object.keys))];
    const cells = (item, index) => [index, ...names.map((name) => (name in item ? item[name] : ""))];
    return tableView({ label, columns: ["", ...names], count: items.length, fetch: slice(cells), head: true, nulls });
  }
  return tableView({
    label,
    columns: ["", "Value"],
    count: items.length,
    fetch: slice((item, index) => [index, item]),
    head: true,
    nulls,
  });
}

function objectView(entries, depth, nulls) {
  if (entries.length > 4 * ROWS) {
    return tableView({
      label: "Object",
      columns: ["Key", "Value"],
      count: entries.length,
      fetch: (from, to) => entries.slice(from, to),
      head: true,
      nulls,
    });
  }
  const lines = entries.map(([key, value]) => {
    const nested = value !== null && typeof value === "object" && Object.keys(value).length > 0;
    return [h("dt", {}, key), h("dd", {}, nested ? folded(value, depth, nulls) : valueView(value, { nulls }, depth + 1))];
  });
  return h("dl", { class: "value" }, lines);
}

function folded(value, depth, nulls) {
  const details = h("details", {}, h("summary", {}, brief(value, undefined, nulls)));
  details.addEventListener("toggle", () => details.children.length > 1 || details.append(valueView(value, { nulls }, depth + 1)));
  return details;
}

function cellOf(cell, head, nulls) {
  const text =
    cell === null ? (nulls ? nullWord(nulls) : "–") : typeof cell === "string" ? shorten(cell, 300) : ["object", "boolean"].includes(typeof cell) ? brief(cell, undefined, nulls) : String(cell);
  return head ? h("th", { scope: "row" }, text) : h("td", { class: NUMBER.test(text) ? "number" : undefined }, text);
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}
