// The search of modules: which public names contain a text.

import { h, labelled } from "../dom.js";
import { attempt } from "../messages.js";

/** Return a card with the form and what was found; `ask({ lib, text })` searches. */
export function openSearch(ask) {
  const lib = h("input", { type: "text", required: true, spellcheck: false, autocomplete: "off" });
  const text = h("input", { type: "text", spellcheck: false, autocomplete: "off", maxLength: 200 });
  const send = h("button", { class: "primary" }, "Search");
  const message = h("p", { role: "status" });
  const body = h("tbody");
  const heads = ["Name", "Kind", "Module", "What it does"].map((name) => h("th", { scope: "col" }, name));
  const table = h("table", { class: "found" }, h("thead", {}, h("tr", {}, heads)), body);
  const scroll = h("div", { class: "scroll", hidden: true, tabIndex: 0, role: "region", "aria-label": "What was found" }, table);
  const form = h(
    "form",
    { class: "fields", onsubmit: search },
    labelled("Modules", lib, "One or more: json, os.path"),
    labelled("Text", text, "Part of a name; left empty, all names are shown."),
    h("div", { class: "field" }, send),
  );

  function search(event) {
    event.preventDefault();
    attempt(async () => {
      send.disabled = true;
      message.textContent = "Searching …";
      try {
        const found = await ask({ lib: lib.value.split(/[\s,;]+/).filter(Boolean), text: text.value.trim() });
        message.textContent = found.message;
        body.replaceChildren(...found.data.map(line));
        scroll.hidden = found.data.length === 0;
      } catch (error) {
        message.textContent = error.message;
        scroll.hidden = true;
      } finally {
        send.disabled = false;
      }
    });
  }

  const about = h("p", { class: "hint" }, "The public names of Python modules on the server, with their signatures.");
  return {
    element: h("section", { class: "card stack", "aria-label": "Search of modules" }, h("h2", {}, "Search modules"), about, form, message, scroll),
  };
}

function line({ lib, name, kind, signature, doc }) {
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, h("code", {}, name), signature ? h("code", { class: "signature" }, signature) : null),
    h("td", {}, kind),
    h("td", {}, lib),
    h("td", {}, doc),
  );
}
