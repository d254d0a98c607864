// The variables of a workspace: the list of them, and a look at one.

import { h, renew } from "../dom.js";
import { display } from "../dialogs.js";
import { attempt } from "../messages.js";
import { SCALARS, namesOf, oneAtATime, valueChoice } from "./choices.js";
import { inspectionView } from "./inspecting.js";

//: Bytes of JSON up to which a value is read for the list: larger ones say their type and shape.
const PREVIEW = 160;
//: Types of values that are read for the list.
const READ = [...SCALARS, "list", "tuple", "dict", "set"];

/** Put the list into the side; returns `read()`, which looks again, and `close()`. `ask(command, fields)` asks the workspace. */
export function openVariables(side, ask) {
  const list = h("ul", { class: "choices variables" });
  const words = h("p", { class: "hint" }, "Reading …");
  side.append(h("section", { class: "stack", "aria-label": "Variables" }, h("h2", {}, "Variables"), words, list));
  let closed = false;

  async function open(variable) {
    const source = {
      value: (window) => ask("get_value", { variable, ...(window && { window }) }),
      statistics: () => ask("get_statistics", { variable }),
    };
    await display(variable, inspectionView(variable, null, source));
  }

  const read = oneAtATime(
    async () => {
      try {
        const { variables, left_out: leftOut } = await ask("list_variables");
        const names = namesOf(variables, READ);
        const values = names.length ? await ask("get_variable", { variable: names, limit: PREVIEW }) : {};
        const choice = (variable) => valueChoice(variable, values[variable.name], () => attempt(() => open(variable.name)));
        renew(list, variables.map(choice));
        words.textContent = leftOut ? `${leftOut.toLocaleString("en")} more are not listed.` : "None yet.";
        words.hidden = variables.length > 0 && !leftOut;
      } catch (error) {
        words.textContent = error.message;
        words.hidden = closed;
      }
    },
    () => closed,
  );
  read();
  return { read, close: () => (closed = true) };
}
