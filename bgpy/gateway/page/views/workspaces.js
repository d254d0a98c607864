// Workspaces: the list of them, and the one that was chosen.

import { h, labelled, renew } from "../dom.js";
import { fill } from "../dialogs.js";
import { attempt, say } from "../messages.js";
import { nodeText, withReplicas } from "./nodes.js";
import { workspaceChip } from "./states.js";
import { openWorkspace } from "./workspace.js";

export const title = "Workspaces";

//: Milliseconds between two looks at how the workspaces are, while somebody can see them.
const INTERVAL = 3000;
const LAST = "bgpy workspace";

let leave = null;

export async function show(container, api, place) {
  const stopped = new AbortController();
  const list = h("ul", { class: "choices" });
  const create = h(
    "button",
    { type: "button", class: "small", "aria-label": "New workspace", onclick: () => attempt(() => createWorkspace(api)) },
    "New",
  );
  const side = h(
    "aside",
    { class: "stack", "aria-label": "Workspaces" },
    h("div", { class: "row" }, h("h2", { class: "grow" }, title), create),
    list,
  );
  const main = h("div", { class: "stack" }, h("p", { class: "empty late" }, "Reading …"));
  container.append(side, main);
  let timer = null;
  let opened = null;
  leave = () => {
    stopped.abort();
    clearTimeout(timer);
    opened?.close();
  };

  async function look() {
    clearTimeout(timer);
    const overview = document.hidden
      ? null
      : await api.ask("get_overview", { since: Date.now() / 1000 + 1e9 }).catch((error) => ({ error }));
    if (stopped.signal.aborted) {
      return null;
    }
    timer = setTimeout(look, INTERVAL);
    if (overview?.workspaces) {
      draw(overview.workspaces);
    } else if (overview && opened === null) {
      const how = h("a", { href: "#server" }, "How is the server?");
      main.replaceChildren(h("h1", {}, title), h("p", { class: "empty" }, overview.error.message, " ", how));
    }
  }

  function draw(workspaces) {
    const names = workspaces.map((one) => one.name);
    renew(
      list,
      withReplicas(workspaces).map(([one, isReplica]) => choice(one, place, isReplica)),
    );
    if (!place && names.length) {
      const last = localStorage.getItem(LAST);
      location.replace(`#workspaces/${encodeURIComponent(names.includes(last) ? last : names[0])}`);
    } else if (opened === null && names.includes(place)) {
      localStorage.setItem(LAST, place);
      main.replaceChildren();
      opened = openWorkspace(main, side, api, place, { look, reopen });
      list.querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
    } else if (opened === null && !main.querySelector(".invitation")) {
      main.replaceChildren(...invite(place, () => attempt(() => createWorkspace(api))));
    }
    opened?.tell(workspaces.find((one) => one.name === place));
  }

  function reopen() {
    hide();
    container.replaceChildren();
    return show(container, api, place);
  }

  document.addEventListener("visibilitychange", look, { signal: stopped.signal });
  await look();
}

export function hide() {
  leave?.();
  leave = null;
}

function choice(status, place, isReplica) {
  const name = status.name;
  const where = nodeText(status);
  const current = name === place ? "page" : undefined;
  return h(
    "li",
    { class: isReplica ? "replica" : undefined },
    h(
      "a",
      { href: `#workspaces/${encodeURIComponent(name)}`, "aria-current": current },
      h("span", {}, name, where ? h("small", {}, where) : null),
      workspaceChip(status),
    ),
  );
}

function invite(place, create) {
  const text = place
    ? `There is no workspace named “${place}”.`
    : "A workspace is where your Python code runs, one job after another. Its variables stay, also when this page is closed.";
  const button = h("button", { type: "button", class: "primary", onclick: create }, "Create a workspace");
  return [h("h1", {}, place || title), h("div", { class: "empty stack invitation" }, h("p", {}, text), h("p", {}, button))];
}

async function createWorkspace(api) {
  const name = h("input", { type: "text", autocomplete: "off", spellcheck: false, maxLength: 200, autofocus: true });
  const type = h(
    "select",
    {},
    h("option", { value: "" }, "what the server prefers"),
    h("option", { value: "process" }, "a process of its own"),
    h("option", { value: "thread" }, "a thread of the server"),
    h("option", { value: "ray" }, "an actor on a Ray cluster"),
  );
  const memory = h("input", { type: "number", min: 64, step: 1 });
  const crash = h(
    "select",
    {},
    h("option", { value: "abort" }, "are aborted"),
    h("option", { value: "continue" }, "run in a new one"),
  );
  const more = h(
    "details",
    {},
    h("summary", {}, "More"),
    h(
      "div",
      { class: "stack" },
      labelled("Memory limit in MB", memory, "None if it is empty. For processes only."),
      labelled("If its process dies, waiting jobs", crash),
    ),
  );
  const content = h(
    "div",
    { class: "stack" },
    labelled("Name", name, "Left empty, it gets a random one."),
    labelled("Runs in", type, "A process can be killed, and takes nothing else along if it dies; so it is on Ray. A thread starts at once."),
    more,
  );
  if (!(await fill("New workspace", content, "Create"))) {
    return;
  }
  const fields = { type: type.value || null, on_crash: crash.value };
  if (name.value.trim()) {
    fields.name = name.value.trim();
  }
  if (memory.value) {
    fields.memory_limit = Number(memory.value) * 2 ** 20;
  }
  const made = await api.ask("create_workspace", fields);
  say(`Workspace ${made} is there.`);
  location.hash = `#workspaces/${encodeURIComponent(made)}`;
}
