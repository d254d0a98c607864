/*
 * The page of a gateway with several servers: log in once, and go to the page of one. The modules are those of that page.
 */

import * as api from "./api.js";
import { chip, h, renew, span } from "./dom.js";
import { isInside, openEntrance } from "./entrance.js";
import { attempt } from "./messages.js";

//: Milliseconds between two looks, while somebody can see them.
const INTERVAL = 5000;

const TITLE = document.title;
const rows = h("tbody");
let timer = null;

function count(number, one) {
  return `${number} ${one}${number === 1 ? "" : "s"}`;
}

function row(server) {
  const { name, address, path, alive } = server;
  // Relative, wherever the gateway is mounted.
  const about = alive ? `version ${server.version}, up for ${span(server.uptime)}` : server.reason;
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("a", { href: path.slice(1) }, name)),
    h("td", {}, chip(alive ? "answers" : "does not answer", alive ? "good" : "bad")),
    h("td", {}, address),
    h("td", {}, Number.isInteger(server.workspaces) ? count(server.workspaces, "workspace") : ""),
    h("td", {}, h("span", { class: "hint" }, about)),
  );
}

async function look() {
  clearTimeout(timer);
  if (document.hidden || !isInside()) {
    return;
  }
  try {
    renew(rows, (await api.ask("servers")).map(row));
  } finally {
    clearTimeout(timer);
    timer = setTimeout(() => attempt(look), INTERVAL);
  }
}

async function enter() {
  document.title = TITLE;
  await attempt(look);
}

function leave() {
  clearTimeout(timer);
  rows.replaceChildren();
}

const heads = ["Server", "State", "Address", "Workspaces", "About"];
const table = h(
  "table",
  {},
  h("caption", { class: "unseen" }, "The servers behind this gateway"),
  h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
  rows,
);
document.getElementById("view").replaceChildren(
  h("div", { class: "view" }, h("h1", {}, "Servers"), h("div", { class: "card scroll" }, table)),
);
document.addEventListener("visibilitychange", () => attempt(look));
openEntrance(enter, leave);
