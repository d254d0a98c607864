// One workspace: the editor, what can be done, its variables, its jobs.

import { h, renew } from "../dom.js";
import { confirm, display } from "../dialogs.js";
import { editor } from "../editor.js";
import { attempt, say } from "../messages.js";
import { brief, describe, valueView } from "../values.js";
import { Jobs } from "./jobs.js";
import { workspaceChip } from "./states.js";

const HINT = "print('Hello')  # Ctrl-Enter runs it";
//: Bytes of JSON up to which a variable is read for the list: larger ones say their type and shape.
const PREVIEW = 160;
//: Of one that is opened, and of one that is wanted although it is large.
const LARGE = 1 << 20;
const LARGEST = 16 << 20;

/**
 * Fill the main part and the side of the view with a workspace; returns `tell(status)` and `close()`. `look()` asks for a `tell`.
 */
export function openWorkspace(main, side, api, name, look) {
  const ask = (command, fields = {}) => api.ask(command, { name, ...fields });
  const state = h("span");
  const about = h("span", { class: "hint grow" });
  main.append(h("header", { class: "row" }, h("h1", {}, name), state, about, ...managing(ask, name)));
  const code = showCode(main, ask, name);
  const variables = showVariables(side, ask);
  const jobs = new Jobs(main, api, name, {
    ended: () => (variables.read(), look()),
    edit: code.edit,
    changed: code.running,
  });
  return {
    tell(status) {
      if (status) {
        state.replaceChildren(workspaceChip(status));
        about.textContent = describeWorker(status);
      }
    },
    close() {
      jobs.close();
      variables.close();
      code.close();
    },
  };
}

function describeWorker({ type, pid, restarts, JOB_COUNT }) {
  const words = [type === "thread" ? "a thread of the server" : pid ? `process ${pid}` : "a process"];
  if (restarts) {
    words.push(restarts === 1 ? "restarted once" : `restarted ${restarts} times`);
  }
  if (JOB_COUNT) {
    words.push(`${JOB_COUNT} waiting`);
  }
  return words.join(" · ");
}

function showCode(main, ask, name) {
  const place = h("div", { class: "code" });
  const clear = h("input", { type: "checkbox" });
  const limit = h("input", { type: "number", min: 0.1, step: "any", class: "short" });
  const interrupt = async () => (await ask("interrupt")) || say("Nothing ran.");
  const stops = [
    h("button", { type: "button", disabled: true, onclick: () => attempt(interrupt) }, "Interrupt"),
    h("button", { type: "button", disabled: true, onclick: () => attempt(() => kill(ask, name)) }, "Kill"),
  ];
  const buttons = h(
    "div",
    { class: "row" },
    h("button", { type: "button", class: "primary", onclick: () => attempt(run), "aria-keyshortcuts": "Control+Enter" }, "Run"),
    stops,
    h("span", { class: "grow" }),
    h("label", { class: "check" }, clear, "Clear variables first"),
    h("label", { class: "check" }, "Time limit", limit, "s"),
  );
  const key = (text) => h("kbd", {}, text);
  const keys = [key("Ctrl"), " ", key("Enter"), " runs the code. ", key("Esc"), ", then ", key("Tab"), " leaves the editor."];
  main.append(h("section", { class: "card stack", "aria-label": "Code" }, place, buttons, h("p", { class: "hint" }, keys)));
  const draft = `bgpy draft ${name}`;
  const code = editor(place, {
    label: `Python code for ${name}`,
    text: localStorage.getItem(draft) ?? "",
    hint: HINT,
    run: () => attempt(run),
    changed: (text) => localStorage.setItem(draft, text),
  });

  async function run() {
    if (!code.text.trim()) {
      code.focus();
      return;
    }
    const options = { clear: clear.checked, time_limit: limit.value ? Number(limit.value) : null };
    await ask("push_job", { job: code.text, type: "script", timeout: 0, variables: false, ...options });
  }

  return {
    edit(text) {
      code.text = text;
      code.focus();
    },
    running: (is) => stops.forEach((button) => (button.disabled = !is)),
    close: code.close,
  };
}

async function kill(ask, name) {
  const text = `The process of ${name} ends at once, with all that it has started. Its variables are lost.`;
  if (await confirm("Kill the running job?", text, "Kill")) {
    (await ask("kill")) || say("Nothing ran.");
  }
}

function managing(ask, name) {
  const empty = async () => {
    if (
      await confirm(
        "Clear all variables?",
        `All that the jobs of ${name} have defined is forgotten. What runs ends first.`,
        "Clear",
      )
    ) {
      await ask("clear", { timeout: 0 });
    }
  };
  const remove = async () => {
    if (await confirm(`Delete ${name}?`, "What runs in it ends. Its variables, jobs and results are gone for good.", "Delete")) {
      await ask("destroy_workspace");
      say(`Workspace ${name} was deleted.`);
      location.hash = "#workspaces";
    }
  };
  return [
    h("button", { type: "button", onclick: () => attempt(empty) }, "Clear variables"),
    h("button", { type: "button", class: "danger", onclick: () => attempt(remove) }, "Delete"),
  ];
}

function showVariables(side, ask) {
  const list = h("ul", { class: "choices variables" });
  const none = h("p", { class: "hint" }, "None yet.");
  const panel = h("section", { class: "stack", "aria-label": "Variables" }, h("h2", {}, "Variables"), none, list);
  side.append(panel);
  let wanted = false;
  let reading = false;
  let closed = false;

  async function open(variable) {
    // With no room at all a value is only described: its type and shape.
    const [value, about] = await Promise.all([
      ask("get_variable", { variable, limit: LARGE }),
      ask("get_variable", { variable, limit: 0 }),
    ]);
    const place = h("div", { class: "stack" }, valueView(value, about));
    if (value?.truncated === true && "shape" in value) {
      const all = async () => place.replaceChildren(valueView(await ask("get_variable", { variable, limit: LARGEST }), about));
      place.append(h("div", {}, h("button", { type: "button", onclick: () => attempt(all) }, "Read it all the same")));
    }
    const words = about?.truncated === true ? `${variable}: ${describe(about.type, about.shape)}` : variable;
    await display(words, place);
  }

  // One look at a time: those that are asked for meanwhile are one more.
  async function read() {
    wanted = true;
    while (wanted && !reading && !closed) {
      wanted = false;
      reading = true;
      try {
        const values = await ask("get_variable", { limit: PREVIEW });
        const button = ([name, value]) =>
          h(
            "li",
            {},
            h(
              "button",
              { type: "button", class: "quiet", title: name, onclick: () => attempt(() => open(name)) },
              h("code", {}, name),
              h("small", {}, brief(value)),
            ),
          );
        renew(list, Object.entries(values).map(button));
        none.hidden = list.children.length > 0;
      } catch (error) {
        none.textContent = error.message;
        none.hidden = closed;
      } finally {
        reading = false;
      }
    }
  }
  read();
  return { read, close: () => (closed = true) };
}
