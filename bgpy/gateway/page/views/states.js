// What get_status says of a workspace, as people say it.

import { chip } from "../dom.js";

const STATES = { INITIAL: ["new", "idle"], IDLE: ["idle", "good"], BUSY: ["busy", "busy"], EXCEPT: ["failed", "bad"] };

/** Return a chip with how a workspace is; "failed" is one whose last job did. */
export function workspaceChip({ STATUS }) {
  return chip(...(STATES[STATUS] ?? [STATUS]));
}
