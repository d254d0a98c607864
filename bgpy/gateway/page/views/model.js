// One model: what it is, what it takes and gives, and a form to ask it.

import { chip, h, labelled, moment, renew, span } from "../dom.js";
import { attempt } from "../messages.js";
import { errorView, valueView } from "../values.js";
import { example, readJson, shapeText } from "./inputs.js";
import { nodeText } from "./nodes.js";

/** Fill the main part of the view with the model of a workspace; returns `tell(model)`, for what `describe` says of it now. */
export function openModel(main, name, { predict, update, undeploy }) {
  const facts = h("dl", { class: "tiles" });
  const about = h("p", { class: "hint path" });
  const replicas = makeReplicas();
  const body = h("div", { class: "stack" });
  const button = (text, action, kind = undefined) => h("button", { type: "button", class: kind, onclick: () => attempt(action) }, text);
  main.replaceChildren(
    h("header", { class: "row" }, h("h1", { class: "grow" }, name), button("Update", update), button("Undeploy", undeploy, "danger")),
    about,
    facts,
    replicas.element,
    body,
  );
  let drawn = null;
  return {
    tell(model) {
      const weights = model.weights && model.weights !== model.path ? [", with the weights of ", h("code", {}, model.weights)] : [];
      about.replaceChildren(h("code", {}, model.path), ...weights);
      facts.replaceChildren(
        ...factsOf(model).map(([term, value, more]) => h("div", { class: "card tile" }, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)))),
      );
      replicas.update(model);
      // What was typed stays, for as long as the model takes the same.
      const now = JSON.stringify(model.signatures);
      if (drawn !== now) {
        drawn = now;
        body.replaceChildren(signatures(model), asking(model, predict));
      }
    },
  };
}

function factsOf(model) {
  const earlier = Object.keys(model.versions).length - 1;
  const asked = model.last_prediction === null ? "not asked yet" : `last at ${moment(model.last_prediction)}`;
  return [
    ["Version", model.version, earlier ? `${earlier} before it` : "the first"],
    ["Predictions", model.predictions.toLocaleString("en"), `${model.failed_predictions.toLocaleString("en")} failed, ${asked}`],
    ["Device", model.device, `loaded in ${span(model.load_time)}`],
    ["Format", model.format.replaceAll("_", " "), model.platform.replaceAll("_", " ")],
  ];
}

//: How a replica is, as people see it.
const STATES = { ready: "good", loading: "busy", draining: "busy", failed: "bad" };

/** The workspaces that have the model, where they are several, with where each runs. */
function makeReplicas() {
  const body = h("tbody");
  const heads = ["Workspace", "State", "Version", "Predictions that wait", "Node"].map((text) => h("th", { scope: "col" }, text));
  const table = h("table", {}, h("thead", {}, h("tr", {}, heads)), body);
  const bounds = h("span", { class: "hint" });
  const element = h(
    "section",
    { class: "card stack", "aria-label": "Replicas", hidden: true },
    h("div", { class: "row" }, h("h2", {}, "Replicas"), bounds),
    h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of the replicas" }, table),
  );
  return {
    element,
    update({ replicas = [], min_replicas: low, max_replicas: high }) {
      element.hidden = replicas.length < 2 && !(high > 1);
      bounds.textContent = low === high ? "" : `${low} to ${high}, as load decides`;
      renew(body, replicas.map(replicaLine));
    },
  };
}

function replicaLine({ workspace, state, version, waiting, node, address, error }) {
  const link = h("a", { href: `#workspaces/${encodeURIComponent(workspace)}`, title: workspace }, workspace);
  const why = typeof error === "string" ? error : error?.message;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, link),
    h("td", {}, chip(state, STATES[state]), why ? h("small", { class: "hint" }, ` ${why}`) : null),
    h("td", {}, version ?? "–"),
    h("td", {}, waiting),
    h("td", {}, nodeText({ node, address }) || "this machine"),
  );
}

function signatures({ signatures: all, default_signature: first }) {
  const side = (title, tensors) => {
    const line = ([name, { dtype, shape }]) =>
      h("tr", {}, h("th", { scope: "row" }, h("code", {}, name)), h("td", {}, dtype), h("td", {}, h("code", {}, shapeText(shape))));
    const heads = [title, "Type", "Shape"].map((text) => h("th", { scope: "col" }, text));
    return h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, Object.entries(tensors).map(line)));
  };
  const one = ([name, { inputs, outputs }]) =>
    h(
      "article",
      { class: "stack signature", "aria-label": `Signature ${name}` },
      h("h3", {}, h("code", {}, name), name === first ? h("small", { class: "hint" }, " the default") : null),
      h("div", { class: "sides" }, side("Inputs", inputs), side("Outputs", outputs)),
    );
  return h("section", { class: "card stack", "aria-label": "Signatures" }, h("h2", {}, "What it takes and gives"), Object.entries(all).map(one));
}

function asking({ signatures: all, default_signature: first }, predict) {
  const select = h(
    "select",
    { onchange: choose },
    Object.keys(all).map((name) => h("option", { value: name, selected: name === first }, name)),
  );
  const inputs = h("div", { class: "stack" });
  const result = h("div", { class: "stack", "aria-live": "polite" });
  const send = h("button", { class: "primary" }, "Predict");
  const which = Object.keys(all).length > 1 ? labelled("Signature", select) : null;
  const form = h(
    "form",
    { class: "stack", onsubmit: ask },
    which,
    inputs,
    h("div", { class: "row" }, send, h("span", { class: "hint" }, "The values are JSON: a list for each axis.")),
  );
  let fields = new Map();

  function choose() {
    fields = new Map();
    inputs.replaceChildren();
    for (const [name, { dtype, shape }] of Object.entries(all[select.value].inputs)) {
      const text = example(dtype, shape);
      const field = h("textarea", { spellcheck: false, value: text, rows: Math.min(8, Math.max(2, Math.ceil(text.length / 90))) });
      fields.set(name, field);
      inputs.append(labelled(name, field, `${dtype} ${shapeText(shape)}${shape?.includes(null) ? ", ? is any number" : ""}`));
    }
    result.replaceChildren();
  }

  async function ask(event) {
    event.preventDefault();
    const feeds = {};
    for (const [name, field] of fields) {
      feeds[name] = readJson(field);
      if (feeds[name] === undefined) {
        return;
      }
    }
    const names = Object.keys(all[select.value].outputs);
    const fetches = select.value === first ? names : names.map((name) => `${select.value}/${name}`);
    send.disabled = true;
    try {
      result.replaceChildren(...answered(await predict({ fetches, feed_dict: feeds }), names));
    } catch (error) {
      result.replaceChildren(errorView({ type: error.kind || "Error", message: error.message }));
    } finally {
      send.disabled = false;
    }
  }

  choose();
  return h("section", { class: "card stack", "aria-label": "Prediction" }, h("h2", {}, "Try it"), form, result);
}

function answered({ finish, state, error, result, time, job }, names) {
  if (!finish) {
    return [h("p", {}, `It has taken ${span(time)} by now, and goes on as job ${job} of the workspace.`)];
  }
  if (state !== "done") {
    return [errorView(error ?? { type: state.replace("_", " "), message: "" })];
  }
  const one = (name, place) => h("div", { class: "result" }, h("h4", {}, h("code", {}, name)), valueView(result[place], { type: "array" }));
  return [h("h3", {}, "Prediction ", h("small", { class: "hint" }, `in ${span(time)}`)), ...names.map(one)];
}
