// The statistics of a table: for each of its columns a card with numbers, frequent values and a histogram.

import { chip, h, span } from "../dom.js";
import { brief } from "../values.js";

//: Columns that are shown at first, and more with each press of the button.
const COLUMNS = 12;
//: Frequent values that are shown.
const FREQUENT = 5;
const KINDS = {
  number: "numbers",
  boolean: "true or false",
  text: "texts",
  moment: "dates and times",
  span: "spans of time",
  object: "objects",
  empty: "nothing",
};

/** Return an element for the answer of get_stats. */
export function statisticsView({ rows, columns, left_out: leftOut, sample }) {
  const grid = h("div", { class: "grid columns" });
  const more = h("button", { type: "button", onclick: show }, "Show more columns");
  const facts = [
    `${rows.toLocaleString("en")} rows, ${(columns.length + leftOut).toLocaleString("en")} ${columns.length + leftOut === 1 ? "column" : "columns"}.`,
    sample ? `Of every ${sample.every.toLocaleString("en")} rows one was looked at.` : "",
    leftOut ? `${leftOut.toLocaleString("en")} columns were left out.` : "",
  ];
  let shown = 0;

  function show() {
    grid.append(...columns.slice(shown, shown + COLUMNS).map(columnView));
    shown += COLUMNS;
    more.hidden = shown >= columns.length;
  }

  show();
  return h("div", { class: "stack" }, h("p", { class: "hint" }, facts.filter(Boolean).join(" ")), grid, h("div", {}, more));
}

function columnView(column) {
  const { name, type, kind, count, missing, distinct, min, max, mean, std, quartiles, histogram: bins, frequent, infinite, lengths } = column;
  const write = writer(kind);
  const facts = [
    ["Values", count.toLocaleString("en")],
    ["Missing", missing ? `${missing.toLocaleString("en")} (${share(missing, count + missing)})` : "none"],
    ["Distinct", distinct?.toLocaleString("en")],
    ["Infinite", infinite ? infinite.toLocaleString("en") : null],
    ["Least", kind === "boolean" ? null : given(min, write)],
    ["Quartiles", quartiles?.map(write).join(" · ")],
    ["Greatest", kind === "boolean" ? null : given(max, write)],
    [kind === "boolean" ? "True" : "Mean", kind === "boolean" ? given(mean, (value) => share(value, 1)) : given(mean, write)],
    ["Deviation", given(std, kind === "moment" || kind === "span" ? span : write)],
    ["Length", lengths ? `${lengths.min} to ${lengths.max}, mean ${number(lengths.mean)}` : null],
  ];
  const title = name === null ? "Values" : String(name);
  return h(
    "article",
    { class: "column stack", "aria-label": `Column ${title}` },
    h("div", { class: "row" }, h("h4", { class: "grow" }, title), chip(KINDS[kind] ?? kind), h("small", { class: "hint" }, type)),
    bins ? histogramView(bins, title, write) : null,
    h(
      "dl",
      { class: "facts" },
      facts.filter(([, value]) => value !== null && value !== undefined).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
    ),
    frequentView(frequent, count, write),
  );
}

/** Bars, of which each says what it is when it is pointed at; the text for screen readers says the range and where most values are. */
function histogramView({ edges, counts }, title, write) {
  const part = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([attribute, value]) => element.setAttribute(attribute, value));
    element.append(...children);
    return element;
  };
  const most = Math.max(...counts, 1);
  const words = (place) => `${write(edges[place])} to ${write(edges[place + 1])}: ${counts[place].toLocaleString("en")}`;
  const bar = (count, place) => {
    const height = count && Math.max((count / most) * 100, 1);
    const about = part("title", {}, words(place));
    return part(
      "g",
      {},
      about,
      part("rect", { class: "room", x: place, y: 0, width: 1, height: 100 }),
      part("rect", { x: place + 0.04, y: 100 - height, width: 0.92, height }),
    );
  };
  const fullest = counts.indexOf(most);
  const label = `Histogram of ${title}: ${counts.length} bins from ${write(edges[0])} to ${write(edges.at(-1))}; the fullest is ${words(Math.max(fullest, 0))}`;
  const picture = part(
    "svg",
    { viewBox: `0 0 ${counts.length} 100`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...counts.map(bar),
  );
  const ends = h("div", { class: "ends-of-axis", "aria-hidden": "true" }, h("span", {}, write(edges[0])), h("span", {}, write(edges.at(-1))));
  return h("div", { class: "histogram" }, picture, ends);
}

function frequentView(frequent, count, write) {
  if (frequent.length === 0 || frequent[0].count === 1) {
    return null;
  }
  const line = ({ value, count: times }) => {
    const bar = h("progress", { max: Math.max(count, 1), value: times, "aria-hidden": "true" });
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, value === "" ? "(empty)" : write(value)),
      h("td", {}, bar),
      h("td", { class: "number" }, times.toLocaleString("en")),
    );
  };
  return h("table", { class: "frequent" }, h("caption", {}, "Most frequent"), h("tbody", {}, frequent.slice(0, FREQUENT).map(line)));
}

function writer(kind) {
  if (kind === "span") {
    return (value) => (typeof value === "number" ? (value < 0 ? `−${span(-value)}` : span(value)) : String(value));
  }
  return (value) =>
    typeof value === "number" ? number(value) : typeof value !== "string" ? brief(value) : kind === "moment" ? value.replace("T", " ") : value;
}

function given(value, write) {
  return value === null || value === undefined ? null : write(value);
}

function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) {
    return value.toPrecision(4).replace(/\.?0+e/, "e");
  }
  return value.toLocaleString("en", size >= 1000 || Number.isInteger(value) ? { maximumFractionDigits: 2 } : { maximumSignificantDigits: 5 });
}

function share(part, whole) {
  return `${((100 * part) / whole).toLocaleString("en", { maximumFractionDigits: 1 })} %`;
}
