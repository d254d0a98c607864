// The placeholders of a run: the list of them, and the value or the statistics of the one that was chosen.

import { h, renew } from "../dom.js";
import { inspectionView } from "./inspecting.js";
import { SCALARS, namesOf, oneAtATime, valueChoice } from "./choices.js";

const NONE = "What the code saves with save_placeholder, and the variables of the main file once it has ended, come here.";

/**
 * Put the placeholders of a run into a container.
 *
 * `ask(action, fields)` asks about one, `list()` returns all, `isOver()` tells whether no more will come. Returns `read()`, which looks
 * again, `ready(name)` for one that has just been saved, and `close()`.
 */
export function openPlaceholders(container, ask, list, isOver) {
  const names = h("ul", { class: "choices variables" });
  const none = h("p", { class: "empty" }, "Reading …");
  const detail = h("div", { class: "detail", role: "region", "aria-label": "Placeholder", hidden: true });
  const news = h("span", { class: "hint", role: "status" });
  const heading = h("div", { class: "row" }, h("h2", {}, "Placeholders"), news);
  container.append(h("section", { class: "card stack", "aria-label": "Placeholders" }, heading, none, h("div", { class: "split" }, names, detail)));
  let chosen = null;
  let closed = false;

  const valueOf = async (name, window) => {
    const answer = await ask("get_placeholder", { name, ...(window && { window }) });
    return { ...answer, type: answer.value_type };
  };

  const read = oneAtATime(
    async () => {
      try {
        const found = await list();
        const values = new Map();
        const one = async (name) => values.set(name, (await valueOf(name)).value);
        await Promise.allSettled(namesOf(found, SCALARS).map(one));
        renew(names, found.map((placeholder) => choice(placeholder, values.get(placeholder.name))));
        none.textContent = isOver() ? "It has left no values." : NONE;
        none.hidden = found.length > 0;
      } catch (error) {
        none.textContent = error.message;
        none.hidden = error.kind === "lost" || names.children.length > 0;
      }
    },
    () => closed,
  );

  function choice(placeholder, value) {
    const item = valueChoice(placeholder, value, () => open(placeholder.name));
    mark(item.firstElementChild, placeholder.name === chosen);
    return item;
  }

  function open(name) {
    chosen = name;
    for (const button of names.querySelectorAll("button")) {
      mark(button, button.parentElement.dataset.name === name);
    }
    const source = {
      value: (window) => valueOf(name, window),
      statistics: async () => (await ask("get_stats", { name })).value,
    };
    detail.replaceChildren(inspectionView(name, h("h3", { class: "grow" }, h("code", {}, name)), source));
    detail.hidden = false;
  }

  return {
    read,
    ready(name) {
      news.textContent = `${name} is ready`;
      read();
    },
    close: () => (closed = true),
  };
}

function mark(button, chosen) {
  if (chosen) {
    button.setAttribute("aria-current", "true");
  } else {
    button.removeAttribute("aria-current");
  }
}
