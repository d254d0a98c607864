/*
 * The frame of the page: navigation, one view at a time.
 *
 * A view is a module in views/ and a line in VIEWS below. It exports
 *
 *   title                         its name in the navigation and in the window's title
 *   show(container, api, place)   fills the empty element that it is given. `api` is the module api.js; `place` is what the
 *                                 address has behind the view's name, decoded: "lab" for #workspaces/lab, "" for #workspaces.
 *                                 May be async.
 *   hide()                        closes whatever still runs: sockets, timers, editors, plots. Called before the element goes.
 *                                 May come while `show` waits for something, which then has to look whether it is still wanted.
 *
 * Another place in the same view is a `hide` and a `show`, too; links are plain: <a href="#workspaces/lab">. What a view makes
 * goes into its container, under one h1 of its own; around it is <main>, which gets the focus when a person comes from another
 * view. The modules:
 *
 *   dom.js        h(tag, properties, ...children), renew(container, elements), labelled(text, field, hint), chip(text, kind),
 *                 moment(seconds), span(seconds)
 *   editor.js     editor(container, { label, text, run, changed }): code, with highlighting
 *   plot.js       plot(container, series, options)
 *   values.js     valueView(value, about), tableView({ columns, count, fetch }), pictureView(base64), errorView(error),
 *                 brief(value), describe(type, shape)
 *   output.js     makeOutput(), showProgress(container, bars, event): what runs, while it does
 *   terminal.js   new Terminal(): what \r, \b and colours in a text come to
 *   messages.js   say(text), complain(text, about), attempt(action, about): words to the person, in regions of role status and
 *                 alert
 *   drafts.js     readDraft(name), keepDraft(name, text): what is being written, for each tab
 *   entrance.js   openEntrance(enter, leave): who gets in
 *   dialogs.js    confirm(title, text, action), fill(title, content, action), display(title, content)
 *
 * The classes of the style sheet are listed at its top. The policy of the page (Content-Security-Policy: default-src 'self')
 * allows no inline style in markup, no image or script from anywhere else: `element.style.width = …` is fine, a style attribute
 * is not.
 */

import * as api from "./api.js";
import { h, moment } from "./dom.js";
import { isInside, openEntrance } from "./entrance.js";
import { attempt, complain, forgetTroubles } from "./messages.js";

const VIEWS = {
  server: ["Server", () => import("./views/server.js")],
  workspaces: ["Workspaces", () => import("./views/workspaces.js")],
  runs: ["Runs", () => import("./views/runs.js")],
  requests: ["Requests", () => import("./views/requests.js")],
  models: ["Models", () => import("./views/models.js")],
};
const FIRST = "workspaces";

const element = (id) => document.getElementById(id);
//: The view that is shown, and a number that tells whether it still is: loading one takes a while.
let shown = null;
let turn = 0;

function readAddress() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  try {
    return Object.hasOwn(VIEWS, name) ? [name, decodeURIComponent(rest.join("/"))] : [FIRST, ""];
  } catch {
    return [name, ""]; // a percent sign that stands for nothing
  }
}

function leave() {
  turn += 1;
  shown?.view.hide();
  shown = null;
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close("no")); // it was about what is left now
  element("view").replaceChildren();
}

async function go() {
  const [name, place] = readAddress();
  const moved = shown !== null && shown.name !== name;
  leave();
  const mine = turn;
  if (moved) {
    forgetTroubles();
  }
  for (const link of element("navigation").children) {
    if (link.dataset.view === name) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
  element("view").append(h("p", { class: "empty late" }, "Loading …"));
  try {
    const view = await VIEWS[name][1]();
    if (mine !== turn) {
      return;
    }
    document.title = `${view.title} · bgpy`;
    shown = { name, view };
    const container = h("div", { class: `view ${name}` });
    element("view").replaceChildren(container);
    const done = view.show(container, api, place);
    if (moved) {
      element("view").focus();
    }
    await done;
  } catch (error) {
    if (mine === turn && error.status !== 401) {
      complain(error.message, error.state);
    }
  }
}

/** Grey out what is old, for as long as nothing newer comes. */
function age() {
  element("view").classList.toggle("stale", element("connection").textContent !== "" || !element("away").hidden);
}

for (const [name, [title]] of Object.entries(VIEWS)) {
  element("navigation").append(h("a", { href: `#${name}`, "data-view": name }, title));
}
window.addEventListener("hashchange", () => isInside() && attempt(go));
openEntrance(go, leave);
api.news.addEventListener("connection", age);
api.news.addEventListener("server", ({ detail }) => {
  const away = element("away");
  if (away.hidden) {
    away.dataset.since = moment(Date.now() / 1000);
  }
  away.textContent = detail === null ? "" : `The server does not answer, since ${away.dataset.since}: ${detail}`;
  away.hidden = detail === null;
  if (detail === null) {
    forgetTroubles("server");
  }
  age();
});
