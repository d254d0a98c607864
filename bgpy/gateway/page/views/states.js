// What get_status says of a workspace, and get_record of a job, as people say it.

import { chip } from "../dom.js";

const JOBS = { queued: "idle", held: "idle", running: "busy", done: "good", cancelled: "idle", interrupted: "idle" };
const WORKSPACES = { INITIAL: ["new", "idle"], IDLE: ["idle", "good"], BUSY: ["busy", "busy"] };

/** Return a chip with how a job is. */
export function jobChip(state) {
  return chip(state.replace("_", " "), JOBS[state] ?? "bad");
}

/** Tell whether a job is over because somebody wanted it to be: that is no failure. */
export function wasStopped(state) {
  return state === "cancelled" || state === "interrupted";
}

/** Return a chip with how a workspace is: where nothing goes on and its last job did not run through, how that one is. */
export function workspaceChip({ STATUS, last_state: last }) {
  return STATUS === "EXCEPT" ? jobChip(last ?? "failed") : chip(...(WORKSPACES[STATUS] ?? [STATUS]));
}

/** Tell whether the last job of a workspace has failed: who interrupts one knows why. */
export function hasFailed({ STATUS, last_state: last }) {
  return STATUS === "EXCEPT" && JOBS[last] !== "idle";
}
