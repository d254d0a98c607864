// Dialogs, each a <dialog> of its own: Escape closes it, the focus goes back to where it was.

import { h } from "./dom.js";

function open(title, content, buttons, options = {}) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: "dialog-title" }, title);
    const troubles = h("div", { class: "messages", role: "alert" });
    const form = h("form", { method: "dialog" }, heading, content, troubles, h("div", { class: "buttons" }, buttons));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", class: options.wide ? "wide" : "" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask before something that cannot be taken back; return whether it is wanted. `action` is the word on the button. */
export async function confirm(title, text, action) {
  const buttons = [
    h("button", { value: "no", autofocus: true }, "Cancel"),
    h("button", { value: "yes", class: "danger" }, action),
  ];
  return (await open(title, h("p", {}, text), buttons)) === "yes";
}

/**
 * Show a form; return whether it was filled in. What it holds is read from the fields afterwards.
 *
 * `content` is elements; `action` the word on the button.
 */
export async function fill(title, content, action) {
  const buttons = [
    h(
      "button",
      { value: "no", formNoValidate: true, type: "button", onclick: (event) => event.target.closest("dialog").close("no") },
      "Cancel",
    ),
    h("button", { value: "yes", class: "primary" }, action),
  ];
  return (await open(title, content, buttons)) === "yes";
}

/** Show something large, such as a value; return when it was closed. */
export async function display(title, content) {
  await open(title, content, h("button", { value: "no" }, "Close"), { wide: true });
}
