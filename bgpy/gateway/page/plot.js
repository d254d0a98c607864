// Plots, by uPlot: lines and points over time.

import uPlot from "./vendor/uplot.js";
import { h } from "./dom.js";

//: Of the page's style sheet, in the order of the series.
const COLOURS = ["--plot-1", "--plot-2", "--plot-3", "--plot-4", "--plot-5", "--plot-6"];

/**
 * Put a plot into a container.
 *
 * `series` is a list of { label, kind }, where kind is "line" (the default) or "points". `options`: `label` names it for screen
 * readers, `height` in pixels, `format(y)` writes a value, `log` makes the y axis logarithmic. Returns an object with
 * `update(xs, ...ys)`, lists of the same length, the first one of seconds since 1970, with null for what is not there, and
 * `close()`, to be called in a view's `hide`.
 */
export function plot(container, series, { label, height = 180, format = plain, log = false } = {}) {
  const host = h("div", { class: "plot", role: "img", "aria-label": label });
  container.append(host);
  const colours = new Map();
  const colour = (name) => () => colours.get(name) ?? colours.set(name, readColour(host, name)).get(name);
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui",
  };
  const values = (write) => (_, splits) => splits.map((split) => (split === null ? "" : write(split)));
  const linear = { range: (_, low, high) => [Math.min(0, low ?? 0), Math.max(high ?? 0, 0) * 1.1 || 1] };
  const chart = new uPlot(
    {
      width: Math.max(host.clientWidth, 200),
      height,
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
      legend: {
        show: series.length > 1,
        markers: { width: 0, fill: (_, index) => (index ? colour(COLOURS[(index - 1) % COLOURS.length])() : null) },
      },
      scales: {
        x: { time: true, range: shownTime },
        y: log ? { distr: 3 } : linear,
      },
      axes: [
        { ...axis, grid: { show: false }, values: TIMES },
        { ...axis, size: roomFor, values: values(format), ...(log ? { splits: decades } : {}) },
      ],
      series: [
        { label: "Time" },
        ...series.map((one, index) => drawn(one, colour(COLOURS[index % COLOURS.length]), format)),
      ],
    },
    [[], ...series.map(() => [])],
    host,
  );
  const size = new ResizeObserver(() => host.clientWidth && chart.setSize({ width: host.clientWidth, height }));
  size.observe(host);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => {
    colours.clear();
    chart.redraw(false, true);
  };
  dark.addEventListener("change", redraw);
  return {
    update(xs, ...ys) {
      chart.setData([xs, ...ys]);
      const last = series.map((one, index) => `${one.label} ${lastOf(ys[index], format)}`);
      host.setAttribute("aria-label", `${label}: ${xs.length ? last.join(", ") : "nothing yet"}`);
    },
    close() {
      size.disconnect();
      dark.removeEventListener("change", redraw);
      chart.destroy();
      host.remove();
    },
  };
}

//: Seconds that an axis of time shows at least.
const SHORTEST = 60;

const TIMES = [
  [3600 * 24, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", null, null, null, null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1],
];

/** The first and the last second of an axis. Not by the limits that the library gives: of one moment it makes a thousand days. */
export function shownTime({ data: [times] }) {
  const last = times.length ? times[times.length - 1] : Date.now() / 1000;
  return [Math.min(times[0] ?? last, last - SHORTEST), last];
}

/** Pixels for the longest of the words at an axis. */
function roomFor(chart, words) {
  chart.ctx.font = `${12 * devicePixelRatio}px system-ui`;
  const widths = (words ?? []).map((word) => chart.ctx.measureText(word).width / devicePixelRatio);
  return Math.ceil(Math.max(40, ...widths) + 16);
}

function decades(chart, axis, low, high) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const count = Math.floor(Math.log10(high) + 1e-9) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, index) => 10 ** (first + index));
}

// A canvas takes no variables, and a variable itself is not computed: a colour that is made of it is.
function readColour(host, name) {
  const probe = host.appendChild(h("span", { hidden: true }));
  probe.style.color = `var(${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

function drawn({ label, kind = "line" }, stroke, format) {
  const common = { label, stroke, value: (_, y) => (y === null || y === undefined ? "–" : format(y)) };
  if (kind === "points") {
    return { ...common, width: 0, paths: () => null, points: { show: true, size: 6, width: 0, fill: stroke } };
  }
  return { ...common, width: 2, points: { show: false } };
}

function lastOf(values, format) {
  const last = values.findLast((value) => value !== null && value !== undefined);
  return last === undefined ? "–" : format(last);
}

function plain(value) {
  return value === null ? "" : Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
}
