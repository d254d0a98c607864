// The card of one job: its code, how far it is, what it writes, its result or its error.

import { h, moment, span } from "../dom.js";
import { attempt } from "../messages.js";
import { makeOutput, showProgress } from "../output.js";
import { errorView, valueView } from "../values.js";
import { jobChip, wasStopped } from "./states.js";

//: What opens a window elsewhere.
const SHOWS = /\b(plt|pyplot|fig|figure)\.show\(/;
const NO_WINDOW = "No window opens here. To see the figure, write plt.gcf() as the last line, or keep it in a variable and press that.";
const IN_PARTS = "Keep it in a variable, and press that: there its rows can be seen, some at a time.";
const ENDED = ["done", "failed", "cancelled", "interrupted", "killed", "timed_out", "crashed", "aborted"];

export class Job {
  //: The word of get_record for it; null before anything is known.
  state = null;
  //: Whether its end was told: a record may say it sooner than the event.
  told = false;
  //: Whether its output is that of its record, and not what came with the events.
  settled = false;
  //: Whether all that it has written came with the events.
  #complete = false;
  #chip = h("span");
  #times = h("span", { class: "hint grow" });
  #script = h("pre", { tabIndex: 0, "aria-label": "Code" });
  #preview = h("code");
  #bars = h("div", { class: "stack" });
  #progress = new Map();
  #output = makeOutput();
  #result = h("div", { class: "result" });

  /** `ask(command, number)` sends a command about the job, `edit(text)` puts a script into the editor. */
  constructor(number, { ask, edit }) {
    const act = (text, command) => {
      const run = () => attempt(() => ask(command, number));
      return h("button", { type: "button", class: "small", hidden: true, onclick: run }, text);
    };
    const again = () => edit(this.#script.textContent);
    this.number = number;
    this.cancel = act("Cancel", "cancel");
    this.resume = act("Resume", "resume");
    this.element = h(
      "article",
      { class: "card stack job", "aria-labelledby": `job-${number}` },
      h(
        "header",
        { class: "row" },
        h("h3", { id: `job-${number}` }, `Job ${number}`),
        this.#chip,
        this.#times,
        this.cancel,
        this.resume,
      ),
      h(
        "details",
        {},
        h("summary", {}, this.#preview),
        this.#script,
        h("button", { type: "button", class: "small", onclick: again }, "Put into the editor"),
      ),
      this.#bars,
      this.#output.element,
      this.#result,
    );
  }

  /** Whether nothing follows, as far as is known. */
  get ended() {
    return ENDED.includes(this.state);
  }

  /** Take an event of the workspace that is about the job. */
  hear(event) {
    if (event.event === "started") {
      this.#complete = true;
      this.#times.textContent = moment(event.time);
      if (!this.ended) {
        this.#become("running");
      }
    } else if (event.event === "output") {
      this.#output.add(event.stream, event.text);
    } else if (event.event === "progress") {
      showProgress(this.#bars, this.#progress, event);
    } else if (event.event === "finished") {
      this.#become(event.state);
    }
  }

  /** Take note that events are missing: the record will say what it has written. */
  missed() {
    this.#complete = false;
  }

  /** Take what get_record says. */
  record(record) {
    const { pushed, started, ended } = record.times;
    this.#become(record.state);
    this.#script.textContent = record.job || `(${record.type})`;
    this.#preview.textContent = summary(record);
    this.#times.textContent = [moment(started ?? pushed), ended && started ? span(ended - started) : ""]
      .filter(Boolean)
      .join(" · ");
    if (this.ended) {
      if (!this.#complete) {
        this.#output.replace(record.output);
        this.settled = true;
      }
      this.#output.settle();
      this.#result.replaceChildren(...outcome(record));
    }
  }

  #become(state) {
    this.state = state;
    this.#chip.replaceChildren(jobChip(state));
    this.cancel.hidden = state !== "queued" && state !== "held";
    this.resume.hidden = state !== "held";
    this.element.classList.toggle("running", state === "running");
    this.element.classList.toggle("calm", wasStopped(state));
  }
}

function summary({ type, job }) {
  const what = type === "clear" ? "clear variables" : type.replaceAll("_", " ");
  const lines = (job.trim() || what).split("\n");
  return lines.length > 1 ? `${lines[0]} …` : lines[0];
}

function outcome({ value, value_type: type, nulls, error, state, job }) {
  if (error) {
    return [errorView(error)];
  }
  if (value === null && SHOWS.test(job)) {
    return [h("p", { class: "hint" }, NO_WINDOW)];
  }
  // A number that JSON does not have comes as null, too: its type tells it from None.
  if (state !== "done" || (value === null && (type === null || type === "NoneType"))) {
    return [];
  }
  const cut = value?.truncated === true && "shape" in value;
  return [
    h("h4", { class: "hint" }, "Result"),
    valueView(value, { type: type ?? undefined, nulls }),
    ...(cut ? [h("p", { class: "hint" }, IN_PARTS)] : []),
  ];
}
