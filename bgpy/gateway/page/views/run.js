// One run: what it writes, how far it is, how it ended, its placeholders.

import { chip, h, moment, span } from "../dom.js";
import { confirm } from "../dialogs.js";
import { attempt, complain, forgetTroubles } from "../messages.js";
import { errorView } from "../values.js";
import { makeOutput, showProgress } from "../output.js";
import { openPlaceholders } from "./placeholders.js";
import { openPredicting } from "./predicting.js";

//: What a session's status says, as people say it.
export const STATES = { Alive: ["running", "busy"], Finished: ["finished", "good"], Failed: ["failed", "bad"], Stopped: ["stopped", "idle"] };

/**
 * Fill the main part of the view with a run. `changed()` is called when it has ended.
 *
 * Returns `hear(message)`, `connected()` after each connection, `tell(info)` with what the list says of it, undefined where it is not
 * there, and `close()`.
 */
export function openRun(main, ask, session, changed) {
  const heading = h("h1", {}, "Run");
  const state = h("span", { role: "status" });
  const about = h("span", { class: "hint grow" });
  const stop = h("button", { type: "button", hidden: true, onclick: () => attempt(halt) }, "Stop");
  const forget = h("button", { type: "button", class: "danger", onclick: () => attempt(drop) }, "Forget");
  const bars = h("div", { class: "stack" });
  const output = makeOutput();
  const ending = h("div");
  const quiet = h("p", { class: "hint" }, "Nothing was written yet.");
  const body = h("div", { class: "stack" });
  main.append(h("header", { class: "row" }, heading, state, about, stop, forget), body);
  const parts = [h("h2", {}, "Output"), bars, quiet, output.element, ending];
  const outputCard = h("section", { class: "card stack job", "aria-label": "Output" }, parts);
  body.append(outputCard);
  const askOne = (action, fields) => ask(action, { placeholder: { sessionId: session, ...fields } });
  const placeholders = openPlaceholders(body, askOne, list, () => status !== null && status !== "Alive");
  const predicting = openPredicting(body, (fields) => ask("run_model", { model: { sessionId: session, ...fields } }));
  const progress = new Map();
  let status = null;
  let seen = 0;
  //: Whether what the run tells has broken off, between the gateway and the server.
  let broken = false;

  async function list() {
    const found = (await ask("list_placeholders", { sessionId: session })).placeholders;
    predicting.offer(found);
    return found;
  }

  function become(word) {
    status = word;
    state.replaceChildren(chip(...(STATES[word] ?? [word])));
    stop.hidden = word !== "Alive";
    stop.disabled = false;
    outputCard.classList.toggle("calm", word === "Stopped");
    quiet.textContent = word === "Alive" ? "Nothing was written yet." : "It wrote nothing.";
  }

  async function halt() {
    stop.disabled = true;
    state.replaceChildren(chip("stopping", "busy"));
    let word = status;
    try {
      word = (await ask("stop", { sessionId: session })).status;
    } finally {
      become(status === "Alive" ? word : status); // its end may have been told meanwhile
    }
  }

  async function drop() {
    const text = "What runs of it ends. Its output, its placeholders and its folder are gone for good.";
    if (await confirm("Forget this run?", text, "Forget")) {
      await ask("forget", { sessionId: session });
      location.hash = "#runs";
    }
  }

  function missing() {
    const text = "This run is no longer there: it was forgotten, its time to be kept is over, or its server has ended.";
    const another = h("a", { class: "button", href: "#runs" }, "Start a new run");
    state.replaceChildren(chip("gone", "idle"));
    about.textContent = "";
    stop.hidden = forget.hidden = true;
    forgetTroubles(session);
    body.replaceChildren(h("div", { class: "empty stack" }, h("p", {}, text), h("p", {}, another)));
  }

  function hear(message) {
    if (message.sessionId !== session) {
      return;
    }
    const { type, number } = message;
    if (type === "[error]") {
      broken = true;
      complain(message.message, session);
    } else if (type.startsWith("[state]:")) {
      finish(message);
    } else if (type === "[status]:FORGOTTEN") {
      missing();
    } else if (number > seen) {
      seen = number;
      tellOne(message);
    }
  }

  function tellOne({ type, text, name, done, total, missed }) {
    if (type === "[output]:STDOUT" || type === "[output]:STDERR") {
      quiet.hidden = true;
      output.add(type.slice(-6).toLowerCase(), text);
    } else if (type === "[output]:GAP") {
      quiet.hidden = true;
      output.add(
        "stderr",
        `… ${missed ? `${(missed[1] - missed[0] + 1).toLocaleString("en")} messages are` : "What came before is"} no longer known …\n`,
      );
    } else if (type === "[progress]:UPDATE") {
      showProgress(bars, progress, { name, done, total });
    } else if (type === "[placeholder]:READY") {
      placeholders.ready(name);
    }
  }

  function finish({ status: word, error }) {
    become(word);
    output.settle();
    ending.replaceChildren(...(error ? [errorView(error)] : []));
    placeholders.read();
    changed();
  }

  async function subscribe() {
    const answer = await ask("subscribe", { sessionId: session, since: seen });
    broken = false;
    forgetTroubles(session);
    if (!STATES[answer.status]) {
      missing();
      return;
    }
    if (status === null || answer.status === "Alive") {
      become(answer.status);
    }
    placeholders.read();
  }

  return {
    hear,
    connected: subscribe,
    tell(info) {
      if (info === undefined) {
        if (!forget.hidden) {
          missing();
        }
        return;
      }
      heading.textContent = info.mainfile;
      const times = info.ended ? `ran ${span(info.ended - info.started)}` : `for ${span(Math.max(0, Date.now() / 1000 - info.started))}`;
      about.textContent = [moment(info.started), times, info.files.length > 1 ? `${info.files.length} files` : ""].filter(Boolean).join(" · ");
      if (broken) {
        attempt(subscribe, session);
      }
    },
    close() {
      placeholders.close();
      forgetTroubles(session);
    },
  };
}
