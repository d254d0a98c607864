/*
 * The page of a gateway with several servers: log in once, and go to the page of one. The modules are those of that page.
 */

import * as api from "./api.js";
import { chip, h, renew, span } from "./dom.js";
import { attempt } from "./messages.js";

//: Milliseconds between two looks, while somebody can see them.
const INTERVAL = 5000;

const element = (id) => document.getElementById(id);
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
  if (document.hidden || !element("door").hidden) {
    return;
  }
  try {
    renew(rows, (await api.ask("servers")).map(row));
  } finally {
    clearTimeout(timer);
    timer = setTimeout(() => attempt(look), INTERVAL);
  }
}

function frame(loggedIn) {
  for (const id of ["top", "bottom", "view"]) {
    element(id).hidden = !loggedIn;
  }
  element("door").hidden = loggedIn;
}

function welcome(reason) {
  frame(false);
  clearTimeout(timer);
  rows.replaceChildren();
  element("refused").textContent = reason;
  element("token").focus();
}

async function enter(otherwise) {
  if (await api.isLoggedIn()) {
    frame(true);
    await attempt(look);
  } else {
    welcome(otherwise);
  }
}

async function logIn(event) {
  event.preventDefault();
  const field = element("token");
  element("refused").textContent = "";
  try {
    await api.ask("login", { token: field.value.trim() });
    field.value = "";
    await enter("The browser has not kept the cookie: it must be allowed for this page.");
  } catch (error) {
    element("refused").textContent = `${error.message}.`.replace("..", ".");
    field.select();
  }
}

const heads = ["Server", "State", "Address", "Workspaces", "About"];
const table = h(
  "table",
  {},
  h("caption", { class: "unseen" }, "The servers behind this gateway"),
  h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
  rows,
);
element("view").replaceChildren(
  h("div", { class: "view" }, h("h1", {}, "Servers"), h("div", { class: "card scroll" }, table)),
);
element("login").addEventListener("submit", logIn);
element("logout").addEventListener("click", () =>
  attempt(async () => {
    await api.ask("logout");
    welcome("");
  }),
);
document.addEventListener("visibilitychange", () => attempt(look));
api.news.addEventListener("logged-out", () => welcome("Log in again: the cookie has ended."));
api.news.addEventListener("connection", ({ detail }) => {
  element("connection").textContent = detail ? "" : "No connection. Trying again …";
});
attempt(() => enter(""));
