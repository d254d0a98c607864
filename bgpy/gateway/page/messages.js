// Short words to the person. Good news float above the page for a while; bad news stand above it, where they cover nothing.

import { h } from "./dom.js";

//: Milliseconds that good news stay; bad ones stay until they are sent away.
const STAY = 5000;
//: As many messages at once.
const MOST = 4;

/** Say something that went well, for some seconds. */
export function say(text) {
  const message = put(document.getElementById("news"), text, "good");
  setTimeout(() => message.remove(), STAY);
}

/**
 * Say what went wrong, until it is sent away: in the dialog that is open, which is all that can be used then. `about` names what it
 * is about, for `forgetTroubles`; what "gateway" and "server" are about goes when these answer again.
 */
export function complain(text, about = "") {
  put(document.querySelector("dialog[open] .messages") ?? document.getElementById("troubles"), text, "bad", about);
}

/** Send away what went wrong: what is about something that is so no longer, or all, as a person has gone to another view. */
export function forgetTroubles(about = null) {
  for (const message of document.querySelectorAll(".message.bad")) {
    if (about === null || message.dataset.about === about) {
      message.remove();
    }
  }
}

/**
 * Run an action, such as a button's; what it fails with is told, until the same is attempted again where `about` names it. Returns
 * its result, undefined where it failed.
 */
export async function attempt(action, about = "") {
  if (about) {
    forgetTroubles(about);
  }
  try {
    return await action();
  } catch (error) {
    if (error.kind !== "left" && error.status !== 401) {
      complain(error.message, error.state || about);
    }
    return undefined;
  }
}

function put(region, text, kind, about = "") {
  for (const message of region.querySelectorAll(".message")) {
    if (message.dataset.text === text) {
      message.remove();
    }
  }
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => message.remove() }, "×");
  const message = h("div", { class: `message ${kind}`, "data-text": text, "data-about": about }, h("span", {}, text), close);
  region.append(message);
  while (region.children.length > MOST) {
    region.firstElementChild.remove();
  }
  return message;
}
