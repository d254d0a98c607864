// Timed requests: start one, watch all of them, end one; and the search of modules.

import { h, labelled } from "../dom.js";
import { editor } from "../editor.js";
import { complain, forgetTroubles, say } from "../messages.js";
import { showEnds, showRunning } from "./requestlists.js";
import { openSearch } from "./search.js";

export const title = "Requests";

//: Milliseconds between two looks at the clock.
const TICK = 1000;
//: How often it is asked who runs, while others come and go.
const LOOKS = 5;
//: Ends that are asked for at once: more are not shown.
const RECALLED = 100;
//: The answer of a request of which nobody knows how it has ended.
const LOST = { status: "Lost", message: "The server that it ran on is gone, or no longer knows how it has ended." };

let leave = null;

export function show(container, api) {
  const conversation = api.converse("requests", answered, () => look());
  const running = showRunning(kill);
  const ends = showEnds((request) => api.ask("recall_requests", { requests: [request] }));
  const starting = openStart(start);
  const search = openSearch((fields) => api.ask("query_module", fields));
  container.append(h("h1", {}, title), h("div", { class: "grid" }, starting.element, running.element), ends.element, search.element);
  let since = 0;
  //: Whether there was no answer to the last look, or events may have gone by since.
  let missed = false;
  // What has come and gone while it was broken, and whether the server is another one, is seen by the next look.
  const line = new api.Line("watch_requests", { opened: () => line.send({ since }), hear: open, lost: () => (missed = true) });
  const clock = setInterval(() => document.hidden || running.draw(), TICK);

  async function look() {
    missed = false;
    await find().catch(() => (missed = true)); // the frame of the page says why
  }

  // The events tell who comes and goes. This is for what they no longer know; an answer that events have overtaken is none.
  async function find() {
    for (let time = 0; time < LOOKS; time += 1) {
      const before = since;
      const left = await api.ask("get_requests");
      if (since === before) {
        await explain(running.set(left));
        return;
      }
    }
  }

  // Those that are gone, and of whose end no event has told: the server says how they have ended, or that it does not know them.
  async function explain(gone) {
    const numbers = gone
      .slice(-RECALLED)
      .map(({ request }) => request)
      .filter(Boolean);
    const answers = numbers.length ? await api.ask("recall_requests", { requests: numbers }) : {};
    for (const { connid, request } of gone) {
      const answer = answers[request];
      if (answer !== null && running.remove(connid, request)) {
        const known = answer && (answer.status !== "Error" || answer.output !== undefined);
        ends.add({ connid, request, time: Date.now() / 1000, answer: known ? answer : LOST });
      }
    }
  }

  function open(envelope) {
    if (envelope.request_result === true) {
      hear(envelope.result);
      if (missed) {
        look();
      }
      return true;
    }
    if (!api.isAway(envelope)) {
      line.close();
      complain(String(envelope.result), "watch");
    }
    return false;
  }

  function hear(event) {
    if (event.event === "started") {
      running.add(event);
    } else if (event.event === "ended") {
      running.remove(event.connid, event.request);
      ends.add(event);
    } else if (event.event === "gap") {
      look();
    } else if (event.event === "alive") {
      running.setClock(event.time);
    }
    since = event.number;
  }

  function start(fields) {
    forgetTroubles("start");
    if (!conversation.line.send({ route: "request", ...fields })) {
      complain("There is no connection at the moment: nothing was started.", "gateway");
    }
  }

  // The answer to a start comes at its end, of which the events tell, also whoever was away. Here it is heard why nothing began.
  function answered({ status, message, output, executed, connid }) {
    const off = executed !== undefined; // there was no answer: what has begun before is told of when there is one
    if (status === "Error" && output === undefined && !(off && running.has(connid))) {
      complain(message, off ? "server" : "start");
    }
  }

  async function kill(connid) {
    const { status } = await conversation.ask({ route: "kill", connid });
    if (status !== "Ok") {
      say(`The request ${connid} has ended already.`);
    }
  }

  leave = () => {
    clearInterval(clock);
    line.close();
    conversation.close();
    starting.close();
  };
}

export function hide() {
  leave?.();
  leave = null;
}

function openStart(start) {
  const connid = h("input", { type: "text", required: true, maxLength: 200, spellcheck: false, autocomplete: "off" });
  const time = h("input", { type: "number", required: true, min: 0.001, step: "any", value: 60 });
  const place = h("div", { class: "code" });
  const details = h(
    "details",
    {},
    h("summary", {}, "Run a script in it"),
    place,
    h("p", { class: "hint" }, "The request ends with the script; when its time is over, the script is stopped."),
  );
  let code = null;
  details.addEventListener("toggle", () => {
    if (details.open && code === null) {
      code = editor(place, { label: "Script of the request", run: () => form.requestSubmit() });
    }
  });
  const form = h(
    "form",
    { class: "stack", onsubmit: send },
    h(
      "div",
      { class: "fields" },
      labelled("Connection id", connid, "Any name or number."),
      labelled("Time in seconds", time, "Then it ends by itself."),
    ),
    details,
    h("div", { class: "row" }, h("button", { class: "primary" }, "Start")),
  );

  function send(event) {
    event.preventDefault();
    const job = details.open && code.text.trim() ? { job: code.text } : {};
    start({ connid: connid.value, time: Number(time.value), ...job });
    connid.select();
  }

  return {
    element: h("section", { class: "card stack", "aria-label": "New request" }, h("h2", {}, "New request"), form),
    close: () => code?.close(),
  };
}
