// Runs: the list of them, and the one that was chosen, or a new one.

import { chip, h, moment, renew } from "../dom.js";
import { attempt } from "../messages.js";
import { openNewRun } from "./newrun.js";
import { STATES, openRun } from "./run.js";

export const title = "Runs";

//: Milliseconds between two looks at how the runs are, while somebody can see them.
const INTERVAL = 3000;

let leave = null;

export function show(container, api, place) {
  const stopped = new AbortController();
  const list = h("ul", { class: "choices" });
  const none = h("p", { class: "hint" }, "Reading …");
  const create = h("a", { class: "button", href: "#runs" }, "New run");
  const side = h(
    "aside",
    { class: "stack", "aria-label": title },
    h("div", { class: "row" }, h("h2", { class: "grow" }, title), place ? create : null),
    none,
    list,
  );
  const main = h("div", { class: "stack" });
  container.append(side, main);
  const ask = (action, fields = {}) => conversation.ask({ action, ...fields });
  const conversation = api.converse("runtime", (message) => opened.hear(message), connected);
  const opened = place ? openRun(main, ask, place, look) : openNewRun(main, ask);
  let timer = null;
  leave = () => {
    stopped.abort();
    clearTimeout(timer);
    conversation.close();
    opened.close();
  };

  async function look() {
    clearTimeout(timer);
    const answer = document.hidden ? null : await api.ask("list_runs").catch(() => null);
    if (stopped.signal.aborted) {
      return;
    }
    timer = setTimeout(look, INTERVAL);
    if (answer !== null) {
      const sessions = answer.sessions.sort((a, b) => b.started - a.started);
      renew(list, sessions.map((one) => choice(one, place)));
      none.textContent = "None yet.";
      none.hidden = sessions.length > 0;
      opened.tell(sessions.find((one) => one.sessionId === place));
    }
  }

  function connected() {
    attempt(opened.connected);
    look();
  }

  document.addEventListener("visibilitychange", look, { signal: stopped.signal });
}

export function hide() {
  leave?.();
  leave = null;
}

function choice({ sessionId, mainfile, status, started, placeholders: count }, place) {
  const current = sessionId === place ? "page" : undefined;
  const name = h("span", {}, mainfile, h("small", {}, moment(started)), count ? h("small", {}, countText(count)) : null);
  return h(
    "li",
    {},
    h("a", { href: `#runs/${encodeURIComponent(sessionId)}`, "aria-current": current }, name, chip(...(STATES[status] ?? [status]))),
  );
}

function countText(count) {
  return `${count.toLocaleString("en")} ${count === 1 ? "value" : "values"}`;
}
