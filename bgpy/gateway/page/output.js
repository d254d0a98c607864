// What runs, while it does: its output and its progress.

import { h } from "./dom.js";
import { Terminal } from "./terminal.js";

//: Milliseconds from a piece of output to when it is shown, with all that has come by then.
const PAUSE = 80;
//: Pixels from the end of what is scrolled within which it stays at its end.
const AT_END = 40;

/**
 * Return what shows output: `element`, `add(stream, text)` for stdout or stderr, `replace({ stdout, stderr, truncated })`, and
 * `settle()`, after which it is no longer read aloud as it comes. It is shown as a terminal does, `terminal.js`: however much
 * comes, only its last lines are kept, and they are drawn a few times a second.
 */
export function makeOutput() {
  const text = h("pre", { class: "output", role: "log", "aria-label": "Output", tabIndex: 0 });
  const cut = h("p", { class: "hint", hidden: true });
  const element = h("div", { class: "stack", hidden: true }, cut, text);
  let terminal = new Terminal();
  let truncated = false;
  //: Number of the first line that is drawn.
  let first = 0;
  let timer = null;

  function add(stream, piece) {
    if (piece) {
      terminal.write(stream, piece);
      element.hidden = false;
      timer ??= setTimeout(draw, PAUSE);
    }
  }

  function draw() {
    timer = null;
    const follows = text.scrollHeight - text.scrollTop - text.clientHeight < AT_END;
    const { lines, left } = terminal;
    while (first < left && text.firstElementChild) {
      text.firstElementChild.remove();
      first += 1;
    }
    first = left;
    const from = Math.max(0, terminal.changed - left);
    lines.slice(from).forEach((line, index) => {
      const drawn = h("span", {}, line.runs.map((run) => h("span", { class: run.style }, run.text)), line.ended ? "\n" : null);
      const old = text.children[from + index];
      if (old) {
        old.replaceWith(drawn);
      } else {
        text.append(drawn);
      }
    });
    terminal.changed = Infinity;
    const words = [
      left ? `The ${left.toLocaleString("en")} lines before these are left out.` : "",
      truncated ? "Of so much output only the end is kept." : "",
    ];
    cut.textContent = words.filter(Boolean).join(" ");
    cut.hidden = !cut.textContent;
    if (follows) {
      text.scrollTop = text.scrollHeight;
    }
  }

  return {
    element,
    add,
    replace(output) {
      text.replaceChildren();
      terminal = new Terminal();
      first = 0;
      truncated = output.truncated === true;
      element.hidden = true;
      add("stdout", output.stdout);
      add("stderr", output.stderr);
    },
    settle() {
      timer ??= setTimeout(draw, PAUSE);
      setTimeout(() => text.setAttribute("aria-live", "off"), 10 * PAUSE);
    },
  };
}

/** Show how far something has come: a bar for each `name` in a container. `bars` is a Map, of this function's own. */
export function showProgress(container, bars, { name, done, total }) {
  let bar = bars.get(name);
  if (bar === undefined) {
    const label = name || "Progress";
    bar = { meter: h("progress", { "aria-label": label }), text: h("span") };
    bars.set(name, bar);
    container.append(h("div", { class: "bar" }, h("span", {}, label), bar.text, bar.meter));
  }
  if (total === null) {
    bar.meter.removeAttribute("value");
  } else {
    bar.meter.max = Math.max(total, done, 1e-9);
    bar.meter.value = done;
  }
  bar.text.textContent =
    total === null ? done.toLocaleString("en") : `${done.toLocaleString("en")} / ${total.toLocaleString("en")}`;
}
