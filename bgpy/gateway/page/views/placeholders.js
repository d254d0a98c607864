// The placeholders of a run: the list of them, and the value or the statistics of the one that was chosen.

import { h, renew } from "../dom.js";
import { describe, tableView, valueView } from "../values.js";
import { statisticsView } from "./statistics.js";

/**
 * Put the placeholders of a run into a container.
 *
 * `ask(action, fields)` asks about one, `list()` returns all. Returns `read()`, which looks again, `ready(name)` for one that has just
 * been saved, and `close()`.
 */
export function openPlaceholders(container, ask, list) {
  const names = h("ul", { class: "choices variables" });
  const none = h(
    "p",
    { class: "empty" },
    "What the code saves with save_placeholder, and the variables of the main file once it has ended, come here.",
  );
  const detail = h("div", { class: "stack detail", role: "region", "aria-label": "Placeholder", hidden: true });
  const news = h("span", { class: "hint", role: "status" });
  const heading = h("div", { class: "row" }, h("h2", {}, "Placeholders"), news);
  container.append(h("section", { class: "card stack", "aria-label": "Placeholders" }, heading, none, h("div", { class: "split" }, names, detail)));
  let chosen = null;
  let wanted = false;
  let reading = false;
  let closed = false;

  // One look at a time: those that are asked for meanwhile are one more.
  async function read() {
    wanted = true;
    while (wanted && !reading && !closed) {
      wanted = false;
      reading = true;
      try {
        const found = await list();
        renew(names, found.map(choice));
        none.hidden = found.length > 0;
      } catch (error) {
        none.textContent = error.message;
        none.hidden = error.kind === "lost" || names.children.length > 0;
      } finally {
        reading = false;
      }
    }
  }

  function choice({ name, type, shape }) {
    const about = describe(type, shape);
    const button = h(
      "button",
      { type: "button", class: "quiet", title: `${name}: ${about}`, onclick: () => open(name, "value") },
      h("code", {}, name),
      h("small", {}, about),
    );
    mark(button, name === chosen);
    return h("li", { "data-name": name }, button);
  }

  async function open(name, what) {
    chosen = name;
    for (const button of names.querySelectorAll("button")) {
      mark(button, button.parentElement.dataset.name === name);
    }
    const tab = (text, word) =>
      h("button", { type: "button", class: "small", "aria-pressed": String(what === word), onclick: () => open(name, word) }, text);
    const place = h("div", { class: "stack", "aria-busy": "true" }, h("p", { class: "hint" }, "Reading …"));
    const tabs = h(
      "div",
      { class: "row tabs", role: "group", "aria-label": `What is shown of ${name}` },
      tab("Value", "value"),
      tab("Statistics", "statistics"),
    );
    const again = detail.contains(document.activeElement);
    detail.replaceChildren(h("div", { class: "row" }, h("h3", { class: "grow" }, h("code", {}, name)), tabs), place);
    detail.hidden = false;
    if (again) {
      tabs.querySelector("[aria-pressed=true]").focus();
    }
    const read = () => (what === "value" ? placeholderView(name, ask) : ask("get_stats", { name }).then((answer) => statisticsView(answer.value)));
    place.replaceChildren(await read().catch((error) => h("p", { class: "hint" }, error.message)));
    place.removeAttribute("aria-busy");
  }

  return {
    read,
    ready(name) {
      news.textContent = `${name} is ready`;
      read();
    },
    close: () => (closed = true),
  };
}

async function placeholderView(name, ask) {
  const answer = await ask("get_placeholder", { name });
  const { value, value_type: type, shape, window, truncated, encoding } = answer;
  const about = h("p", { class: "hint" }, describe(type, shape));
  const wrapped = (...children) => h("div", { class: "stack" }, about, ...children);
  if (Array.isArray(value) && shape && (answer.columns || answer.index || answer.dtype || truncated)) {
    return wrapped(windowedTable(name, answer, ask));
  }
  if (truncated && typeof value === "string") {
    const part = `These are its first ${window[1].toLocaleString("en")} of ${shape[0].toLocaleString("en")} characters.`;
    return wrapped(valueView(value, { type }), h("p", { class: "hint" }, part));
  }
  if (truncated) {
    return wrapped(valueView({ truncated: true, type, shape }));
  }
  return wrapped(valueView(value, { type, encoding }));
}

/** A table of what has rows: those that came with the answer are there, others are asked for. */
function windowedTable(name, answer, ask) {
  const { heads, cells } = layOut(answer);
  const [first, behind] = answer.window;
  async function fetch(from, to) {
    if (from >= first && to <= behind) {
      return cells(answer, from - first, to - first, from);
    }
    const part = await ask("get_placeholder", { name, window: [from, to] });
    return cells(part, 0, part.value.length, part.window[0]);
  }
  return tableView({ label: `${name}, a table`, columns: heads, count: answer.shape[0], fetch, head: true });
}

function layOut({ columns, dtypes, dtype, index, shape, value }) {
  const head = (text, type) => h("span", { class: "head" }, text === null ? "–" : String(text), type ? h("small", {}, type) : null);
  const labels = (part, from, to, at) => (index ? part.index.slice(from, to) : Array.from({ length: to - from }, (_, place) => at + place));
  const wide = columns !== undefined || (shape.length === 2 && Array.isArray(value[0]));
  const cells = (part, from, to, at) => {
    const names = labels(part, from, to, at);
    return part.value.slice(from, to).map((row, place) => (wide ? [names[place], ...row] : [names[place], row]));
  };
  const inner = columns
    ? columns.map((column, place) => head(column, dtypes?.[place]))
    : wide
      ? value[0].map((_, place) => head(place, dtype))
      : [head("Value", dtype)];
  return { heads: [h("span", { class: "unseen" }, "Row"), ...inner], cells };
}

function mark(button, chosen) {
  if (chosen) {
    button.setAttribute("aria-current", "true");
  } else {
    button.removeAttribute("aria-current");
  }
}
