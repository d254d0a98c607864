// Models: those that are deployed, in all workspaces, and the one that was chosen.

import { chip, h, labelled, renew } from "../dom.js";
import { confirm, display, fill } from "../dialogs.js";
import { attempt, say } from "../messages.js";
import { errorView } from "../values.js";
import { openModel } from "./model.js";

export const title = "Models";

//: Milliseconds between two looks at what is deployed, while somebody can see it.
const INTERVAL = 3000;
//: Seconds for one wait for the end of a job; then it is asked again.
const WAIT = 30;

let leave = null;

export async function show(container, api, place) {
  const stopped = new AbortController();
  const list = h("ul", { class: "choices" });
  const news = h("div", { class: "stack", role: "status" });
  const button = h("button", { type: "button", onclick: () => attempt(deploy) }, "Deploy a model");
  const side = h("aside", { class: "stack", "aria-label": title }, h("h2", {}, title), list, h("div", {}, button));
  const main = h("div", { class: "stack" });
  container.append(side, h("div", { class: "stack" }, news, main));
  const known = new Map();
  let opened = null;
  let workspaces = [];
  let timer = null;
  leave = () => {
    stopped.abort();
    clearTimeout(timer);
  };

  // Each prediction and each deploy is a job: where no job has come, nothing is new; but a model may have others than its own.
  async function describe({ name, CUR_JOB_NUM, STATUS, pid }) {
    const now = JSON.stringify([CUR_JOB_NUM, STATUS, pid]);
    if (known.get(name)?.at !== now || known.get(name).model?.replicas?.length > 1) {
      known.set(name, { at: now, model: await api.ask("describe", { name }).catch(() => null) });
    }
    return known.get(name).model;
  }

  async function look() {
    clearTimeout(timer);
    if (!document.hidden) {
      try {
        workspaces = (await api.ask("get_overview", { since: Date.now() / 1000 + 1e9 })).workspaces;
        const own = workspaces.filter((one) => !one.replica_of);
        const models = (await Promise.all(own.map(async (one) => [one.name, await describe(one)]))).filter(([, model]) => model);
        if (!stopped.signal.aborted) {
          draw(models);
        }
      } catch (error) {
        if (!stopped.signal.aborted && opened === null) {
          main.replaceChildren(h("h1", {}, title), h("p", { class: "empty" }, error.message));
        }
      }
    }
    if (!stopped.signal.aborted) {
      timer = setTimeout(look, INTERVAL);
    }
  }

  function draw(models) {
    renew(list, models.map(([name, model]) => choice(name, model, place)));
    const model = models.find(([name]) => name === place)?.[1];
    if (model) {
      opened ??= openModel(main, place, { predict, update, undeploy });
      opened.tell(model);
    } else if (place === "" && models.length) {
      location.replace(`#models/${encodeURIComponent(models[0][0])}`);
    } else if (opened || main.children.length === 0) {
      opened = null;
      main.replaceChildren(...invite(place, () => attempt(deploy)));
    }
  }

  /** Run a command that is a job, and wait for its end however long that takes; returns whether it went well. */
  async function work(text, command, fields) {
    const note = h("div", { class: "card row" }, chip("working", "busy"), h("p", { class: "grow" }, text));
    news.append(note);
    try {
      let { job, state, error } = await api.ask(command, { ...fields, timeout: 0 });
      while (["queued", "running", "held"].includes(state) && !stopped.signal.aborted) {
        ({ state, error } = await api.ask("get_record", { name: fields.name, job, timeout: WAIT }));
      }
      note.remove();
      if (error && !stopped.signal.aborted) {
        await display(`${text.replace(" …", "")}: that failed`, errorView(error));
      }
      return state === "done" && !stopped.signal.aborted;
    } finally {
      note.remove();
      if (!stopped.signal.aborted) {
        look();
      }
    }
  }

  async function deploy() {
    const wanted = await askForModel(workspaces);
    if (wanted === null) {
      return;
    }
    const { name, ...fields } = wanted;
    if (!workspaces.some((one) => one.name === name)) {
      await api.ask("create_workspace", { name });
    }
    if (await work(`Loading ${fields.path} into ${name} …`, "deploy", { name, ...fields })) {
      say(`The model of ${name} can be asked.`);
      location.hash = `#models/${encodeURIComponent(name)}`;
    }
  }

  async function update() {
    const path = h("input", { type: "text", required: true, spellcheck: false, autocomplete: "off", autofocus: true });
    const field = labelled("Path on the server", path, "A checkpoint, a .weights.h5 file, or a SavedModel of the same signature.");
    if (
      (await fill(`New weights for ${place}`, field, "Update")) &&
      (await work(`Updating the model of ${place} …`, "update", { name: place, path: path.value.trim() }))
    ) {
      say(`The model of ${place} has new weights.`);
    }
  }

  async function undeploy() {
    const text = "It is not there to be asked any more, by nobody. Its files stay where they are.";
    if (
      (await confirm(`Undeploy the model of ${place}?`, text, "Undeploy")) &&
      (await work(`Letting the model of ${place} go …`, "undeploy", { name: place }))
    ) {
      say(`The model of ${place} is gone.`);
    }
  }

  async function predict(fields) {
    const answer = await api.ask("predict", { name: place, ...fields, timeout: 300 });
    look();
    return answer;
  }

  document.addEventListener("visibilitychange", look, { signal: stopped.signal });
  await look();
}

export function hide() {
  leave?.();
  leave = null;
}

function choice(name, { version, replicas }, place) {
  const current = name === place ? "page" : undefined;
  const more = replicas?.length > 1 ? h("small", {}, `${replicas.length} replicas`) : null;
  return h(
    "li",
    {},
    h("a", { href: `#models/${encodeURIComponent(name)}`, "aria-current": current }, h("span", {}, name, more), chip(`version ${version}`, "good")),
  );
}

function invite(place, deploy) {
  const text = place
    ? `No model is deployed in “${place}”.`
    : "A deployed model stays in the memory of its workspace and answers predictions, from this page, from Python and by HTTP.";
  const button = h("button", { type: "button", class: "primary", onclick: deploy }, "Deploy a model");
  return [h("h1", {}, place || title), h("div", { class: "empty stack" }, h("p", {}, text), h("p", {}, button))];
}

/** Ask what is to be deployed and where; return the fields of the command, null where nothing is. */
async function askForModel(workspaces) {
  const text = { type: "text", required: true, spellcheck: false, autocomplete: "off" };
  const path = h("input", { ...text, autofocus: true });
  const names = h(
    "datalist",
    { id: "workspaces-for-models" },
    workspaces.filter((one) => one.type !== "thread" && !one.replica_of).map((one) => h("option", { value: one.name })),
  );
  const name = h("input", { ...text, list: names.id, maxLength: 200 });
  const device = h("input", { ...text, value: "/cpu:0" });
  const warmup = h("input", { type: "checkbox" });
  const replicas = h("input", { type: "number", min: 1, max: 64, step: 1 });
  const content = h(
    "div",
    { class: "stack" },
    labelled("Path on the server", path, "A SavedModel folder, a .keras or .h5 file, or a TensorFlow 1 checkpoint with its meta graph."),
    labelled("Workspace", name, "Which one has it: a new name makes a new workspace."),
    names,
    h(
      "details",
      {},
      h("summary", {}, "More"),
      h(
        "div",
        { class: "stack" },
        labelled("Device", device, "/cpu:0, or /gpu:0 where there is one."),
        labelled("Replicas", replicas, "On how many workspaces it is; left empty, as many as now, or one."),
        h("label", { class: "check" }, warmup, "Run each signature once, so that the first prediction is fast"),
      ),
    ),
  );
  if (!(await fill("Deploy a model", content, "Deploy"))) {
    return null;
  }
  const several = replicas.value ? { replicas: Number(replicas.value) } : {};
  return { name: name.value.trim(), path: path.value.trim(), device: device.value.trim(), warmup: warmup.checked, ...several };
}
