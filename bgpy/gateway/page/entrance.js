// Who gets in: the form that asks for the token, the way out, and whether there is a connection at all. Of every page.

import * as api from "./api.js";
import { attempt, forgetTroubles } from "./messages.js";

const element = (id) => document.getElementById(id);

/** Tell whether somebody is logged in, as far as is known. */
export function isInside() {
  return element("door").hidden;
}

/**
 * Let people in and out. `enter()` shows the page to whom is logged in, `leave()` takes away what it showed; each may come again
 * and again.
 */
export function openEntrance(enter, leave) {
  function frame(loggedIn) {
    for (const id of ["top", "bottom", "view"]) {
      element(id).hidden = !loggedIn;
    }
    element("door").hidden = loggedIn;
  }

  function welcome(reason) {
    if (!isInside()) {
      return;
    }
    leave();
    frame(false);
    forgetTroubles();
    document.title = "Log in · bgpy";
    element("refused").textContent = reason;
    element("token").focus();
  }

  async function begin() {
    if (await api.isLoggedIn()) {
      frame(true);
      await enter();
    } else {
      welcome("");
    }
  }

  async function logIn(event) {
    event.preventDefault();
    const field = element("token");
    element("refused").textContent = "";
    try {
      await api.ask("login", { token: field.value.trim() });
      field.value = "";
      if (await api.isLoggedIn()) {
        frame(true);
        element("view").focus();
        await enter();
      } else {
        element("refused").textContent = "The browser has not kept the cookie: it must be allowed for this page.";
      }
    } catch (error) {
      element("refused").textContent = `${error.message}.`.replace("..", ".");
      field.select();
    }
  }

  async function logOut() {
    await api.ask("logout");
    welcome("");
  }

  element("login").addEventListener("submit", logIn);
  element("logout").addEventListener("click", () => attempt(logOut));
  api.news.addEventListener("logged-out", () => welcome("Log in again: the cookie has ended."));
  api.news.addEventListener("connection", ({ detail }) => {
    element("connection").textContent = detail ? "" : "No connection. Trying again …";
    if (detail) {
      forgetTroubles("gateway");
    }
  });
  attempt(begin);
}
