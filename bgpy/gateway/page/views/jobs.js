// The jobs of a workspace: those that were, and what happens in them as it happens.

import { h } from "../dom.js";
import { attempt } from "../messages.js";
import { Job } from "./job.js";

//: Jobs that are shown at first, and more with each press of the button.
const PAGE = 20;
//: As many at once: thousands may be queued.
const MOST = 200;
//: Records that are asked for at once.
const AT_ONCE = 4;
//: Milliseconds from a gap in the events to a look at what it was about: in a flood more gaps follow.
const CALM = 500;

export class Jobs {
  #api;
  #name;
  #section;
  #calls;
  #none = h("p", { class: "empty" }, "Reading …");
  #list = h("div", { class: "stack" });
  #older = h("button", { type: "button", hidden: true, onclick: () => attempt(() => this.#more()) }, "Show older jobs");
  #news = h("span", { class: "hint", role: "status" });
  #jobs = new Map();
  //: Numbers of jobs whose record is to be read again.
  #stale = new Set();
  #reading = false;
  #calm = null;
  #line = null;
  #closed = false;
  //: Number of the first job that the workspace remembers, and of the first that is shown.
  #first = 0;
  #lowest = 0;

  /**
   * Put the jobs into a container, newest first, and follow them.
   *
   * `ended()` is called after each end of a job, `edit(text)` for a script that is to be in the editor again, `changed(running)`
   * with whether a job runs, `gone()` where the workspace is no longer there.
   */
  constructor(container, api, name, calls) {
    this.#api = api;
    this.#name = name;
    this.#calls = calls;
    const head = h("div", { class: "row" }, h("h2", {}, "Jobs"), this.#news);
    this.#section = h("section", { class: "stack", "aria-label": "Jobs" }, head, this.#none, this.#list, this.#older);
    container.append(this.#section);
    attempt(() => this.#begin());
  }

  /** Show them as what they were: the workspace is gone, also for what it ran. */
  age() {
    this.#section.classList.add("stale");
  }

  /** Follow them no longer. */
  close() {
    this.#closed = true;
    clearTimeout(this.#calm);
    this.#line?.close();
  }

  async #begin() {
    const status = await this.#api.ask("get_status", { name: this.#name });
    this.#first = status.first_job;
    this.#lowest = status.next_job;
    await this.#more();
    this.#none.textContent = "No job yet. Write some code and run it: its output, result and errors come here.";
    if (!this.#closed) {
      // What a job that still runs has done so far is told again by the events.
      const over = [...this.#jobs.values()].every((job) => job.ended);
      this.#line = this.#api.watch(this.#name, over ? status.last_event : 0, (event) => this.#hear(event));
    }
  }

  // The server was started again: its jobs may be others, with the same numbers.
  #restart() {
    this.#line.close();
    this.#jobs.clear();
    this.#stale.clear();
    this.#list.replaceChildren();
    this.#none.hidden = false;
    attempt(() => this.#begin());
  }

  async #more() {
    const from = Math.max(this.#first, this.#lowest - PAGE);
    const numbers = Array.from({ length: this.#lowest - from }, (_, index) => this.#lowest - 1 - index);
    this.#lowest = from;
    this.#older.hidden = from <= this.#first;
    while (numbers.length && !this.#closed) {
      await Promise.all(numbers.splice(0, AT_ONCE).map((number) => this.#read(number, true)));
    }
  }

  #ask(command, number) {
    return this.#api.ask(command, { name: this.#name, job: number });
  }

  /** Read the record of a job; an `old` one was there before this was opened, so that its end is no news. */
  async #read(number, old = false) {
    const record = await this.#ask("get_record", number);
    if (this.#closed) {
      return;
    }
    const job = this.#card(number);
    job.record(record);
    if (old) {
      job.told = job.ended;
    } else if (job.settled) {
      this.#tellEnd(job);
    }
    this.#tellRunning();
  }

  // One after another, however many have changed.
  async #readStale() {
    if (this.#reading) {
      return;
    }
    this.#reading = true;
    for (const number of this.#stale) {
      this.#stale.delete(number);
      if (this.#jobs.has(number) && !this.#closed) {
        await attempt(() => this.#read(number));
      }
    }
    this.#reading = false;
  }

  #card(number) {
    let job = this.#jobs.get(number);
    if (job === undefined) {
      job = new Job(number, { ask: (command) => this.#ask(command, number), edit: this.#calls.edit });
      this.#jobs.set(number, job);
      const before = Math.max(-1, ...[...this.#jobs.keys()].filter((other) => other < number));
      this.#list.insertBefore(job.element, this.#jobs.get(before)?.element ?? null);
      this.#none.hidden = true;
    }
    return job;
  }

  #hear(event) {
    if (event.event === "gap" && event.missed === null) {
      this.#restart();
    } else if (event.event === "gap") {
      this.#missed();
    } else if (event.event === "gone" || event.event === "refused") {
      this.#news.textContent = event.message ?? "";
      this.#calls.gone();
    } else if (event.job !== null && (event.job >= this.#lowest || this.#jobs.has(event.job))) {
      this.#hearOfJob(this.#card(event.job), event);
    }
  }

  #missed() {
    for (const job of this.#jobs.values()) {
      if (!job.told) {
        job.missed();
        this.#stale.add(job.number);
      }
    }
    this.#calm ??= setTimeout(() => {
      this.#calm = null;
      this.#readStale();
    }, CALM);
  }

  #hearOfJob(job, event) {
    if (!job.settled) {
      job.hear(event);
      if (["queued", "finished", "held", "resumed"].includes(event.event)) {
        this.#stale.add(job.number);
        this.#readStale();
        this.#forgetOldest();
      }
    }
    if (event.event === "finished") {
      this.#tellEnd(job);
    }
    this.#tellRunning();
  }

  #forgetOldest() {
    const others = [...this.#jobs.values()].filter((job) => job.state !== "running").sort((a, b) => a.number - b.number);
    for (const job of others.slice(0, Math.max(0, this.#jobs.size - MOST))) {
      this.#jobs.delete(job.number);
      job.element.remove();
      this.#lowest = Math.max(this.#lowest, job.number + 1);
      this.#older.hidden = false;
    }
  }

  #tellEnd(job) {
    if (!job.told) {
      job.told = true;
      this.#news.textContent = `Job ${job.number}: ${job.state.replace("_", " ")}`;
      this.#calls.ended();
    }
  }

  #tellRunning() {
    this.#calls.changed([...this.#jobs.values()].some((job) => job.state === "running"));
  }
}
