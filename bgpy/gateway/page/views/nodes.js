// Where workspaces run, on a Ray cluster: its nodes, and the words for one of them.

import { chip, h, renew } from "../dom.js";

//: Characters of a node's id that tell it from others.
const ID = 8;
//: Resources of a node that every cluster has, in the order in which people ask for them.
const USUAL = { CPU: plain("CPU"), GPU: plain("GPU"), memory: bytes("memory"), object_store_memory: bytes("for objects") };

/** Return where a workspace runs, of its status; "" on this machine. */
export function nodeText({ node, address }) {
  return node ? [address, node.slice(0, ID)].filter(Boolean).join(" · ") : "";
}

/**
 * Return workspaces with those that have a replica of a model behind the workspace of that model, each as [workspace, whether it
 * is one].
 */
export function withReplicas(workspaces) {
  const names = new Set(workspaces.map((one) => one.name));
  const isReplica = (one) => names.has(one.replica_of);
  const of = (name) => workspaces.filter((one) => one.replica_of === name).map((one) => [one, true]);
  return workspaces.filter((one) => !isReplica(one)).flatMap((one) => [[one, false], ...of(one.name)]);
}

/** Return a card of the nodes, hidden where there are none: `element`, and `update(nodes)` and `fail(error)`. */
export function makeNodes() {
  const body = h("tbody");
  const heads = ["Node", "State", "Address", "Workspaces", "Resources"].map((text) => h("th", { scope: "col" }, text));
  const trouble = h("p", { class: "hint", role: "status" });
  const table = h("table", { "aria-label": "Nodes" }, h("thead", {}, h("tr", {}, heads)), body);
  const element = h(
    "section",
    { class: "card stack", "aria-label": "Nodes", hidden: true },
    h("h2", {}, "Nodes"),
    trouble,
    h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of the nodes" }, table),
  );
  return {
    element,
    update(nodes) {
      trouble.textContent = "";
      renew(body, nodes.map(line));
      element.hidden = nodes.length === 0;
    },
    fail(error) {
      // Elsewhere it is said that the server is off or gone; this is a cluster that does not answer.
      if (error.status === 400) {
        trouble.textContent = error.message;
        element.hidden = false;
      }
    },
  };
}

function line({ node, address, name, alive, resources, workspaces }) {
  return h(
    "tr",
    {},
    h("th", { scope: "row", title: node }, name || address, " ", h("code", { class: "hint" }, node.slice(0, ID))),
    h("td", {}, alive ? chip("alive", "good") : chip("dead", "bad")),
    h("td", {}, address),
    h("td", {}, workspaces),
    h("td", {}, resourceText(resources)),
  );
}

function resourceText(resources) {
  const usual = Object.entries(USUAL).flatMap(([name, write]) => (name in resources ? [write(resources[name])] : []));
  const others = Object.entries(resources).filter(([name]) => !(name in USUAL));
  return [...usual, ...others.map(([name, amount]) => plain(name)(amount))].join(" · ");
}

function plain(name) {
  return (amount) => `${amount.toLocaleString("en")} ${name}`;
}

function bytes(name) {
  return (amount) => `${(amount / 2 ** 30).toLocaleString("en", { maximumFractionDigits: 1 })} GB ${name}`;
}
