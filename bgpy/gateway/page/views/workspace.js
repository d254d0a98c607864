// One workspace: the editor, what can be done, its variables, its jobs.

import { chip, h } from "../dom.js";
import { confirm } from "../dialogs.js";
import { keepDraft, readDraft } from "../drafts.js";
import { editor } from "../editor.js";
import { attempt, say } from "../messages.js";
import { Jobs } from "./jobs.js";
import { nodeText } from "./nodes.js";
import { workspaceChip } from "./states.js";
import { openVariables } from "./variables.js";

const HINT = "Write Python code here";

/**
 * Fill the main part and the side of the view with a workspace; returns `tell(status)`, with undefined where it is not there, and
 * `close()`. `look()` asks for a `tell`, `reopen()` fills the view anew.
 */
export function openWorkspace(main, side, api, name, { look, reopen }) {
  const ask = (command, fields = {}) => api.ask(command, { name, ...fields });
  const state = h("span");
  const about = h("span", { class: "hint grow" });
  const lost = h(
    "div",
    { class: "card row lost", role: "alert", hidden: true },
    h("p", { class: "grow" }, "This workspace is gone, and its variables and jobs with it. Your code is still here."),
    h("button", { type: "button", class: "primary", onclick: () => attempt(createAgain) }, "Create it again"),
  );
  const manage = h("fieldset", { class: "row" }, managing(ask, name));
  main.append(h("header", { class: "row" }, h("h1", {}, name), state, about, manage), lost);
  const code = showCode(main, ask, name);
  const variables = openVariables(side, ask);
  const jobs = new Jobs(main, api, name, {
    ended: () => (variables.read(), look()),
    edit: code.edit,
    changed: code.running,
    gone: look,
  });
  let type = "process";

  async function createAgain() {
    await ask("create_workspace", { type });
    reopen();
  }

  return {
    tell(status) {
      if (status && !lost.hidden) {
        reopen();
      } else if (status) {
        type = status.type;
        state.replaceChildren(workspaceChip(status));
        about.textContent = describeWorker(status);
        code.letKill(status.abilities?.kill !== false);
      } else {
        lost.hidden = false;
        state.replaceChildren(chip("gone", "bad"));
        about.textContent = "";
        manage.disabled = true;
        code.stop();
        jobs.age();
      }
    },
    close() {
      jobs.close();
      variables.close();
      code.close();
    },
  };
}

function describeWorker(status) {
  const { type, pid, restarts, JOB_COUNT, replica_of: model } = status;
  const words = [type === "thread" ? "a thread of the server" : pid ? `process ${pid}` : "a process"];
  if (type === "ray") {
    words.push(status.node ? `on node ${nodeText(status)}` : "on Ray");
  }
  if (model) {
    words.push(`a replica of the model of ${model}`);
  }
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
    [interrupt, "Interrupt"],
    [() => kill(ask, name), "Kill"],
  ].map(([action, text]) => h("button", { type: "button", disabled: true, onclick: () => attempt(action) }, text));
  const buttons = h(
    "fieldset",
    { class: "row" },
    h("button", { type: "button", class: "primary", onclick: () => attempt(run, "run"), "aria-keyshortcuts": "Control+Enter" }, "Run"),
    stops,
    h("span", { class: "grow" }),
    h("label", { class: "check" }, clear, "Clear variables first"),
    h("label", { class: "check" }, "Time limit", limit, "s"),
  );
  const key = (text) => h("kbd", {}, text);
  const keys = [key("Ctrl"), " ", key("Enter"), " runs the code. ", key("Esc"), ", then ", key("Tab"), " leaves the editor."];
  main.append(h("section", { class: "card stack", "aria-label": "Code" }, place, buttons, h("p", { class: "hint keys" }, keys)));
  const draft = `bgpy draft ${name}`;
  const code = editor(place, {
    label: `Python code for ${name}`,
    text: readDraft(draft),
    hint: HINT,
    run: () => attempt(run, "run"),
    changed: (text) => keepDraft(draft, text),
  });

  async function run() {
    if (buttons.disabled) {
      return;
    }
    if (!code.text.trim()) {
      say("There is no code to run yet.");
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
    stop: () => (buttons.disabled = true),
    letKill: (can) => (stops[1].hidden = !can),
    running: (is) => stops.forEach((button) => (button.disabled = !is)),
    close: code.close,
  };
}

async function kill(ask, name) {
  const text = `The process of ${name} ends at once, with all that it has started. Its variables are lost, and jobs that wait for it are aborted, unless it was made to go on with them.`;
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
