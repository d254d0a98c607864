// How the server is: its state, its workspaces, the queue and the latency of jobs as they come.

import { chip, h, renew, span } from "../dom.js";
import { plot } from "../plot.js";
import { makeNodes, nodeText, withReplicas } from "./nodes.js";
import { hasFailed, workspaceChip } from "./states.js";

export const title = "Server";

//: Milliseconds between two looks, while somebody can see them.
const INTERVAL = 2000;
//: Looks, and ended jobs, that the plots show.
const LOOKS = 450;
const JOBS = 1000;
const HEADS = ["Workspace", "State", "Waiting", "Last job", "Restarts", "Runs in", "Process"];
//: Seconds: what is shorter has no place on a logarithmic axis.
const SHORTEST = 1e-4;

//: What was seen stays while another view is shown.
const seen = { started: null, since: 0, times: [], waiting: [], running: [], jobs: [] };
let leave = null;

export function show(container, api) {
  const screen = makeScreen(container);
  const stopped = new AbortController();
  let timer = null;
  let asking = false;

  async function look() {
    clearTimeout(timer);
    if (document.hidden) {
      return;
    }
    lookAtNodes();
    try {
      const overview = await api.ask("get_overview", { since: seen.since });
      remember(overview);
      if (!stopped.signal.aborted) {
        screen.update(overview);
      }
    } catch (error) {
      if (!stopped.signal.aborted) {
        screen.fail(error, () => api.ask("create").then(look));
      }
    }
    if (!stopped.signal.aborted) {
      timer = setTimeout(look, INTERVAL);
    }
  }

  // A cluster may take its time: one question at once, and nothing else waits for the answer.
  async function lookAtNodes() {
    if (!asking) {
      asking = true;
      await api.ask("get_nodes").then(screen.nodes.update, screen.nodes.fail);
      asking = false;
    }
  }

  document.addEventListener("visibilitychange", look, { signal: stopped.signal });
  leave = () => {
    stopped.abort();
    clearTimeout(timer);
    screen.close();
  };
  return look();
}

export function hide() {
  leave?.();
  leave = null;
}

function remember({ time, server, workspaces, ended }) {
  if (seen.started !== server.started) {
    // Another server, or the first look: what is remembered of an earlier one is not about this one.
    Object.assign(seen, { started: server.started, times: [], waiting: [], running: [], jobs: [] });
  }
  seen.times.push(time);
  seen.waiting.push(workspaces.reduce((sum, one) => sum + one.JOB_COUNT, 0));
  seen.running.push(workspaces.filter((one) => one.STATUS === "BUSY").length);
  for (const list of [seen.times, seen.waiting, seen.running]) {
    list.splice(0, list.length - LOOKS);
  }
  seen.jobs.push(...ended.filter((job) => job.ran !== null));
  seen.jobs.splice(0, seen.jobs.length - JOBS);
  seen.since = ended.length ? ended[ended.length - 1].ended : seen.since;
}

function makeScreen(container) {
  const tiles = Object.fromEntries(
    ["Server", "Workspaces", "Running", "Waiting", "Latency"].map((name) => [name, h("dd", {}, "–")]),
  );
  const tile = ([name, value]) => h("div", { class: "card tile" }, h("dt", {}, name), value);
  const body = h("tbody");
  const none = h(
    "p",
    { class: "empty", hidden: true },
    "There is no workspace yet. ",
    h("a", { href: "#workspaces" }, "Make one."),
  );
  const trouble = h("div", { class: "card row", role: "alert", hidden: true });
  const queue = h("section", { class: "card stack" }, h("h2", {}, "Queue"));
  const latency = h("section", { class: "card stack" }, h("h2", {}, "Latency of jobs"));
  const heads = h("tr");
  const table = h("table", { "aria-label": "Workspaces" }, h("thead", {}, heads), body);
  const nodes = makeNodes();
  container.append(
    h("h1", {}, title),
    trouble,
    h("dl", { class: "tiles" }, Object.entries(tiles).map(tile)),
    h("div", { class: "grid" }, queue, latency),
    h("section", { class: "card stack" }, h("h2", {}, "Workspaces"), h("div", { class: "scroll" }, table), none),
    nodes.element,
  );
  const plots = [
    plot(queue, [{ label: "Waiting" }, { label: "Running" }], { label: "Jobs that wait and that run" }),
    plot(
      latency,
      [
        { label: "Ran", kind: "points" },
        { label: "Waited", kind: "points" },
      ],
      { label: "Latency of jobs", format: span, log: true },
    ),
  ];
  return {
    nodes,
    update(overview) {
      trouble.hidden = true;
      write(tiles, overview);
      plots[0].update(seen.times, seen.waiting, seen.running);
      const floor = (seconds) => (seconds === null ? null : Math.max(seconds, SHORTEST));
      plots[1].update(
        ...["ended", "ran", "waited"].map((name) => seen.jobs.map((job) => (name === "ended" ? job.ended : floor(job[name])))),
      );
      const onNodes = overview.workspaces.some((one) => one.node);
      renew(heads, [...HEADS, ...(onNodes ? ["Node"] : [])].map((text) => h("th", { scope: "col" }, text)));
      renew(body, withReplicas(overview.workspaces).map(([one, isReplica]) => line(one, isReplica, onNodes)));
      table.hidden = !(none.hidden = overview.workspaces.length > 0);
    },
    fail(error, switchOn) {
      tiles.Server.replaceChildren(chip(error.kind === "off" ? "off" : "no answer", "bad"), h("small", {}, "What else is here is old."));
      const on = h("button", { type: "button", class: "primary", onclick: switchOn }, "Switch it on");
      trouble.replaceChildren(h("p", { class: "grow" }, error.message), ...(error.kind === "off" ? [on] : []));
      trouble.hidden = error.status === 503; // that is said above all views
    },
    close: () => plots.forEach((one) => one.close()),
  };
}

function write(tiles, { time, server, workspaces }) {
  const put = (name, value, more) => tiles[name].replaceChildren(value, h("small", {}, more));
  put(
    "Server",
    chip("running", "good"),
    `bgpy ${server.version}, Python ${server.python}, process ${server.pid}, for ${span(time - server.started)}`,
  );
  put(
    "Workspaces",
    String(workspaces.length),
    `${workspaces.filter(hasFailed).length} whose last job failed`,
  );
  put("Running", String(seen.running.at(-1)), "workspaces with a job");
  const held = workspaces.reduce((sum, one) => sum + one.held, 0);
  put("Waiting", String(seen.waiting.at(-1)), held ? `jobs, and ${held} held` : "jobs");
  const ran = seen.jobs.map((job) => job.ran).sort((a, b) => a - b);
  put(
    "Latency",
    ran.length ? span(ran[Math.floor(ran.length / 2)]) : "–",
    ran.length ? `median of ${ran.length} ${ran.length === 1 ? "job" : "jobs"}` : "no job has ended yet",
  );
}

function line(one, isReplica, onNodes) {
  const kind = { scope: "row", class: isReplica ? "replica" : undefined };
  const name = h("th", kind, h("a", { href: `#workspaces/${encodeURIComponent(one.name)}`, title: one.name }, one.name));
  const cells = [one.JOB_COUNT, one.CUR_JOB_NUM < 0 ? "–" : `#${one.CUR_JOB_NUM}`, one.restarts, one.type, one.pid ?? "–", ...(onNodes ? [nodeText(one)] : [])];
  return h(
    "tr",
    {},
    name,
    h("td", {}, workspaceChip(one)),
    cells.map((cell) => h("td", {}, cell)),
  );
}
