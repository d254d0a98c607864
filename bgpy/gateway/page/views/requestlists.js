// Timed requests: those that run, with the time that each has left, and how those have ended that are over.

import { chip, h, moment, span } from "../dom.js";
import { attempt } from "../messages.js";
import { makeOutput } from "../output.js";
import { brief, errorView, valueView } from "../values.js";

//: Requests that run, and ends, that are shown: those that end next, and the last.
const SHOWN = 100;
const FATES = { Ok: ["Ok", "good"], Killed: ["Killed", "idle"], Timeout: ["Timeout", "busy"], Error: ["Error", "bad"], Lost: ["Lost", "bad"] };

/** The requests that run, by their connection ids; each with the moment of its end by the clock of this browser. */
export function showRunning(kill) {
  const requests = new Map();
  const body = h("tbody");
  const heads = ["Connection id", "Time left", ""].map((text) => h("th", { scope: "col" }, text || h("span", { class: "unseen" }, "Action")));
  const table = h("table", { class: "requests", "aria-label": "Requests that run" }, h("thead", {}, h("tr", {}, heads)), body);
  const none = h("p", { class: "empty" }, "Reading …");
  const count = h("span", { class: "hint", role: "status" });
  const more = h("p", { class: "hint" });
  const element = h(
    "section",
    { class: "card stack", "aria-label": "Running requests" },
    h("div", { class: "row" }, h("h2", {}, "Running"), count),
    none,
    h("div", { class: "scroll" }, table),
    more,
  );
  const rows = new Map();
  let offset = 0;
  let known = false;
  let drawing = false;
  const now = () => Date.now() / 1000;

  function put(connid, left, request, started = now()) {
    const id = String(connid);
    requests.set(id, { connid, request, total: Math.max(left, requests.get(id)?.total ?? 0), ends: started + left });
  }

  function drawSoon() {
    if (!drawing) {
      drawing = true;
      requestAnimationFrame(() => {
        drawing = false;
        draw();
      });
    }
  }

  function draw() {
    const shown = [...requests.entries()].sort((a, b) => a[1].ends - b[1].ends).slice(0, SHOWN);
    const wanted = new Set(shown.map(([id]) => id));
    for (const [id, row] of rows) {
      if (!wanted.has(id)) {
        row.element.remove();
        rows.delete(id);
      }
    }
    shown.forEach(([id, request], place) => {
      const row = rows.get(id) ?? makeRow(id, request.connid, kill);
      rows.set(id, row);
      // Only where it is elsewhere: what is moved loses the focus.
      if (body.children[place] !== row.element) {
        body.insertBefore(row.element, body.children[place] ?? null);
      }
      const left = Math.max(0, request.ends - now());
      row.left.textContent = left >= 60 ? span(left) : `${Math.ceil(left)} s`;
      row.bar.max = Math.max(request.total, 1e-6);
      row.bar.value = left;
    });
    const text = requests.size === 0 ? "" : `${requests.size.toLocaleString("en")} ${requests.size === 1 ? "request" : "requests"}`;
    if (count.textContent !== text) {
      count.textContent = text;
    }
    more.textContent = requests.size > SHOWN ? `${(requests.size - SHOWN).toLocaleString("en")} more, which end later` : "";
    none.textContent = known ? "Nothing runs." : "Reading …";
    table.hidden = !(none.hidden = requests.size > 0);
  }

  return {
    element,
    draw,
    has: (connid) => requests.has(String(connid)),
    setClock: (time) => (offset = now() - time),
    add({ connid, request, left, time }) {
      put(connid, left, request, time + offset);
      drawSoon();
    },
    /** Take one out, unless another has its connection id by now; returns whether it was there. */
    remove(connid, request) {
      const was = requests.get(String(connid));
      const is = was !== undefined && (was.request === request || was.request === undefined);
      if (is) {
        requests.delete(String(connid));
        drawSoon();
      }
      return is;
    },
    /** Take the seconds that are left of all that run; returns those that are here and do not. */
    set(left) {
      known = true;
      const gone = [...requests.entries()].filter(([id]) => !(id in left));
      for (const [id, seconds] of Object.entries(left)) {
        const { connid, request } = requests.get(id) ?? { connid: id };
        put(connid, seconds, request);
      }
      drawSoon();
      return gone.map(([, request]) => request);
    },
  };
}

function makeRow(id, connid, kill) {
  const left = h("span");
  const bar = h("progress", { "aria-hidden": "true" });
  const button = h("button", { type: "button", class: "small", "aria-label": `Kill ${id}`, onclick: () => attempt(() => kill(connid)) }, "Kill");
  const element = h(
    "tr",
    {},
    h("th", { scope: "row" }, id),
    h("td", {}, h("div", { class: "left" }, left, bar)),
    h("td", { class: "number" }, button),
  );
  return { element, left, bar };
}

/** How requests have ended, the last first. */
export function showEnds(recall) {
  const list = h("div", { class: "ends", role: "log", tabIndex: 0, "aria-label": "Ended requests" });
  const none = h("p", { class: "empty" }, "Nothing has ended yet. The answers of requests come here: Ok, Killed, Timeout, or what a script gave.");
  const element = h("section", { class: "card stack", "aria-label": "Ended" }, h("h2", {}, "Ended"), none, list);
  let waiting = [];
  //: Numbers of the last that were told of: it may be told twice, by an event and by a look.
  const told = new Set();

  function draw() {
    list.prepend(
      ...waiting
        .slice(-SHOWN)
        .map((event) => endView(event, recall))
        .reverse(),
    );
    waiting = [];
    while (list.children.length > SHOWN) {
      list.lastElementChild.remove();
    }
    none.hidden = true;
  }

  return {
    element,
    add(event) {
      if (event.request !== undefined && told.has(event.request)) {
        return;
      }
      told.add(event.request);
      if (told.size > SHOWN) {
        told.delete(told.values().next().value);
      }
      if (waiting.length === 0) {
        requestAnimationFrame(draw);
      }
      waiting.push(event);
    },
  };
}

function endView({ connid, request, time, answer }, recall) {
  const state = h("span");
  const detail = h("div", { class: "stack" });
  const told = (whole) => {
    state.replaceChildren(chip(...(FATES[whole.status] ?? [whole.status])));
    detail.replaceChildren(...outcome(whole));
  };
  if (answer) {
    told(answer);
  } else {
    const read = h(
      "button",
      { type: "button", class: "small", onclick: () => attempt(async () => told((await recall(request))[request])) },
      "Show the answer",
    );
    detail.append(h("div", {}, read));
  }
  return h(
    "article",
    { class: "end", "aria-label": `Request ${connid}` },
    h("span", { class: "hint" }, moment(time)),
    h("strong", {}, String(connid)),
    state,
    detail,
  );
}

/** What a script has given, folded: its first line says what it is. */
function outcome({ value, output, error, message }) {
  const texts = output
    ? [
        ["stdout", output.stdout],
        ["stderr", output.stderr],
      ].filter(([, written]) => written)
    : [];
  const given = value !== undefined && value !== null;
  const line = message ?? (given ? brief(value) : texts.length ? texts[0][1].trim().split("\n")[0] : "");
  if (!given && !error && texts.length === 0) {
    return line ? [h("p", {}, line)] : [];
  }
  const details = h("details", {}, h("summary", {}, line || "What it gave"));
  details.addEventListener(
    "toggle",
    () =>
      details.children.length > 1 ||
      details.append(
        h(
          "div",
          { class: "stack" },
          outputOf(output),
          error ? errorView(error) : null,
          given ? h("div", { class: "result" }, h("h3", { class: "hint" }, "Result"), valueView(value)) : null,
        ),
      ),
  );
  return [details];
}

function outputOf(output) {
  const shown = makeOutput();
  shown.replace(output ?? { stdout: "", stderr: "" });
  shown.settle();
  return shown.element;
}
