// What runs, while it does: its output and its progress.

import { h } from "./dom.js";

//: Characters of output that are shown: the last ones.
const SHOWN = 50_000;
//: Milliseconds from a piece of output to when it is shown, with all that has come by then.
const PAUSE = 80;
//: Pixels from the end of what is scrolled within which it stays at its end.
const AT_END = 40;

/**
 * Return what shows output: `element`, `add(stream, text)` for stdout or stderr, `replace({ stdout, stderr })`, and `settle()`,
 * after which it is no longer read aloud as it comes. However much comes, only its last part is kept, and it is drawn a few
 * times a second.
 */
export function makeOutput() {
  const text = h("pre", { class: "output", role: "log", "aria-label": "Output", tabIndex: 0 });
  const cut = h("p", { class: "hint", hidden: true }, "Only the last part of the output is shown.");
  const element = h("div", { class: "stack", hidden: true }, cut, text);
  let pieces = [];
  let waiting = 0;
  let shown = 0;
  let timer = null;

  function add(stream, piece) {
    const last = pieces.at(-1);
    if (last?.[0] === stream && last[1].length < SHOWN) {
      last[1] += piece;
    } else {
      pieces.push([stream, piece]);
    }
    waiting += piece.length;
    while (pieces.length > 1 && waiting - pieces[0][1].length > SHOWN) {
      waiting -= pieces.shift()[1].length;
      cut.hidden = false;
    }
    timer ??= setTimeout(draw, PAUSE);
  }

  function draw() {
    timer = null;
    const follows = text.scrollHeight - text.scrollTop - text.clientHeight < AT_END;
    for (const [stream, piece] of pieces) {
      const part = piece.slice(-SHOWN);
      cut.hidden &&= part.length === piece.length;
      text.append(h("span", { class: stream }, part));
      shown += part.length;
    }
    pieces = [];
    waiting = 0;
    while (text.children.length > 1 && shown - text.firstElementChild.textContent.length > SHOWN) {
      shown -= text.firstElementChild.textContent.length;
      text.firstElementChild.remove();
      cut.hidden = false;
    }
    element.hidden = shown === 0;
    if (follows) {
      text.scrollTop = text.scrollHeight;
    }
  }

  return {
    element,
    add,
    replace({ stdout, stderr }) {
      text.replaceChildren();
      cut.hidden = true;
      pieces = [];
      waiting = shown = 0;
      add("stdout", stdout);
      add("stderr", stderr);
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
