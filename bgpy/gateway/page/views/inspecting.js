// A look at one value: itself, of a long one the rows that are wanted, or its statistics.

import { h } from "../dom.js";
import { describe, missing, nullWord, tableView, valueView } from "../values.js";
import { statisticsView } from "./statistics.js";

/**
 * Return an element that shows a value, which it asks for itself.
 *
 * `name` is that of the value, `heading` an element to stand beside the buttons. `source` has `value(window)`, which returns the
 * fields `value`, `type`, `shape`, `window` and so on of a value, `window` being undefined or the rows [from, to], and
 * `statistics()`.
 */
export function inspectionView(name, heading, source) {
  const place = h("div", { class: "stack" });
  const views = [
    ["Value", () => shownValue(name, source.value)],
    ["Statistics", async () => statisticsView(await source.statistics())],
  ];
  const buttons = views.map(([text, view]) => h("button", { type: "button", class: "small", onclick: () => open(text, view) }, text));
  const tabs = h("div", { class: "row tabs", role: "group", "aria-label": `What is shown of ${name}` }, buttons);
  let shown = null;

  async function open(text, view) {
    shown = text;
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === text)));
    place.setAttribute("aria-busy", "true");
    place.replaceChildren(h("p", { class: "hint" }, "Reading …"));
    const content = await view().catch((error) => h("p", { class: "hint" }, error.message));
    if (shown === text) {
      place.replaceChildren(content);
      place.removeAttribute("aria-busy");
    }
  }

  open(...views[0]);
  return h("div", { class: "stack" }, h("div", { class: "row" }, heading, tabs), place);
}

async function shownValue(name, ask) {
  const answer = await ask();
  const { value, type, shape, window, truncated, encoding, nulls } = answer;
  const about = h("p", { class: "hint" }, describe(type, shape));
  const wrapped = (...children) => h("div", { class: "stack" }, about, ...children);
  if (Array.isArray(value) && shape && (answer.columns || answer.index || answer.dtype || truncated)) {
    return wrapped(...windowedTable(name, answer, ask));
  }
  if (truncated && typeof value === "string") {
    const part = `These are its first ${window[1].toLocaleString("en")} of ${shape[0].toLocaleString("en")} characters.`;
    return wrapped(valueView(value, { type }), h("p", { class: "hint" }, part));
  }
  if (truncated) {
    return wrapped(valueView({ truncated: true, type, shape }));
  }
  return wrapped(valueView(value, { type, encoding, nulls }));
}

/** A table of what has rows: those that came with the answer are there, others are asked for. */
function windowedTable(name, answer, ask) {
  const note = h("p", { class: "hint", hidden: true }, "NaN stands for infinite numbers, too: JSON has neither.");
  const { heads, cells } = layOut(answer, note);
  const [first, behind] = answer.window;
  async function fetch(from, to) {
    if (from >= first && to <= behind) {
      return cells(answer, from - first, to - first, from);
    }
    const part = await ask([from, to]);
    return cells(part, 0, part.value.length, part.window[0]);
  }
  return [tableView({ label: `${name}, a table`, columns: heads, count: answer.shape[0], fetch, head: true }), note];
}

function layOut({ columns, dtypes, dtype, index, shape, value }, note) {
  const head = (text, type) => h("span", { class: "head" }, text === null ? "–" : String(text), type ? h("small", {}, type) : null);
  const labels = (part, from, to, at) => (index ? part.index.slice(from, to) : Array.from({ length: to - from }, (_, place) => at + place));
  const wide = columns !== undefined || (shape.length === 2 && Array.isArray(value[0]));
  const written = (cell, place, nulls) => {
    if (cell !== null) {
      return cell;
    }
    if (nulls && !columns) {
      return nullWord(nulls);
    }
    // Of a table it is told of all its columns together what is missing: that of one goes by its type.
    const word = missing(dtypes?.[place] ?? dtype);
    note.hidden &&= word !== "NaN" || !nulls?.some((one) => one.endsWith("inf"));
    return word;
  };
  const cells = (part, from, to, at) => {
    const names = labels(part, from, to, at);
    const line = (row) => (wide ? row : [row]).map((cell, place) => written(cell, place, part.nulls));
    return part.value.slice(from, to).map((row, place) => [names[place], ...line(row)]);
  };
  const inner = columns
    ? columns.map((column, place) => head(column, dtypes?.[place]))
    : wide
      ? value[0].map((_, place) => head(place, dtype))
      : [head("Value", dtype)];
  return { heads: [h("span", { class: "unseen" }, "Row"), ...inner], cells };
}
